"""How many evaluations and how much time a head's surface takes, sparse and dense, in one run.

    python -m benchmarks.meshing [--model DIR] [--resolutions 128 256 512] [--dense 128] [--device cuda]

Without a model: a random ensemble of the default size, added to the distance from a ball. Time is processor time on a
CPU and wall time on a GPU; the field's own share of it stands beside it. Where the dense grid is evaluated as well, the
last columns say whether the faces are the same, and how far the vertices are apart, in mm.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nphm_core.config import IdentityModelConfig
from nphm_core.meshing.surface import Extraction, Surface, extract_surface
from nphm_core.models.checkpoint import from_pretrained
from nphm_core.models.identity_field import build_identity_field
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.template.anchors import mean_anchors


def main() -> None:
    """Run the measurements and print the table."""
    options = _parser().parse_args()
    sdf = _field(options)
    print("cells  grid    evaluations  seconds  in field  faces    same  apart mm")
    for resolution in options.resolutions:
        how = Extraction(resolution, options.coarse_resolution, options.safety)
        sparse = _measured(sdf, how, "sparse", options.device)
        if resolution in options.dense:
            dense = _measured(sdf, replace(how, coarse_resolution=resolution), "dense", options.device)
            same = np.array_equal(sparse.mesh.faces, dense.mesh.faces)
            apart = np.abs(sparse.mesh.vertices - dense.mesh.vertices).max() if same else float("nan")
            print(f"{'':60s}{same!s:5} {apart * MM_PER_CANONICAL_UNIT:.1e}")


def _measured(sdf: Callable, how: Extraction, grid: str, device: str) -> Surface:
    clock = time.process_time if device == "cpu" else time.perf_counter
    inside = 0.0

    def timed(points: torch.Tensor) -> torch.Tensor:
        nonlocal inside
        started = clock()
        values = sdf(points)
        if device != "cpu":
            torch.cuda.synchronize()
        inside += clock() - started
        return values

    started = clock()
    found = extract_surface(timed, how, device=device)
    seconds = clock() - started
    n_faces = found.mesh.n_faces
    print(f"{how.resolution:5d}  {grid:6}  {found.n_evaluations:11d}  {seconds:7.2f}  {inside:8.2f}  {n_faces:7d}")
    return found


def _field(options: argparse.Namespace) -> Callable[[torch.Tensor], torch.Tensor]:
    if options.model:
        head = from_pretrained(options.model, device=options.device)
        code = head.identity_prior.mean[None]
        return lambda points: head.identity.sdf(points[None], code)[0]
    torch.manual_seed(0)
    field = build_identity_field(IdentityModelConfig(), torch.from_numpy(mean_anchors()).float()).to(options.device)
    code = 0.02 * torch.randn(1, field.n_code).to(options.device)
    return lambda points: points.norm(dim=1) - 0.42 + field.sdf(points[None], code)[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.meshing", description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a trained model")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[128, 256, 512], help="cells along the box")
    parser.add_argument("--dense", type=int, nargs="*", default=[128], help="resolutions that are also done densely")
    parser.add_argument("--coarse-resolution", type=int, default=Extraction().coarse_resolution)
    parser.add_argument("--safety", type=float, default=Extraction().safety)
    parser.add_argument("--device", default="cpu")
    return parser


if __name__ == "__main__":
    main()
