"""Speed of a trained model on a CPU: values, a mesh, a fit; beside the plain operations in the same run.

    python -m benchmarks.cpu --model DIR [--threads 2] [--parts values mesh fit] [--resolution 256]

CPU seconds are those of all threads; wall seconds mean what they say only on a machine that does nothing else. The
fit is of 5,000 points of a surface that the model itself makes, from the default start, with the default settings.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nphm_core.config import FitConfig
from nphm_core.meshing.grid import HEAD_BOX
from nphm_core.meshing.surface import Extraction, extract_surface
from nphm_core.models.checkpoint import from_pretrained
from nphm_core.models.neural_head import NeuralHead
from nphm_core.spaces import MM_PER_CANONICAL_UNIT


def main() -> None:
    """Run the parts and print what they find."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    head = from_pretrained(options.model).requires_grad_(False)
    print(f"{options.threads} threads, PyTorch {torch.__version__}, {options.model.name}", flush=True)
    parts: dict[str, Callable[[], None]] = {
        "values": lambda: values(head),
        "mesh": lambda: mesh(head, options.resolution),
        "fit": lambda: fit(head),
    }
    for name in options.parts:
        parts[name]()


def values(head: NeuralHead) -> None:
    """Time values with and without the operations that slopes need, at points of the meshing box."""
    code = head.identity_prior.mean[None]
    low, high = torch.tensor([HEAD_BOX.low, HEAD_BOX.high])
    points = low + torch.rand(1, 2**14, 3, generator=torch.Generator().manual_seed(0)) * (high - low)
    with torch.no_grad():
        head.identity.sdf(points[:, :64], code)
        mine, mine_s, _ = _timed(lambda: head.identity.sdf(points, code))
    # With gradients enabled, though nothing asks for them, the plain operations serve.
    plain, plain_s, _ = _timed(lambda: head.identity.sdf(points, code))
    apart_mm = float((mine - plain).abs().max()) * MM_PER_CANONICAL_UNIT
    print(f"values of {points.shape[1]} points: {mine_s:.2f} CPU s, plain {plain_s:.2f} CPU s, "
          f"ratio {plain_s / mine_s:.1f}, {apart_mm:.1e} mm apart", flush=True)  # fmt: skip


def mesh(head: NeuralHead, resolution: int) -> None:
    """Time the mean head's mesh, and tell what the dense grid would have to evaluate."""
    code = head.identity_prior.mean[None]
    found, cpu_s, wall_s = _timed(
        lambda: extract_surface(lambda points: head.identity.sdf(points[None], code)[0], Extraction(resolution))
    )
    sides = np.subtract(HEAD_BOX.high, HEAD_BOX.low)
    n_dense = int(np.prod(np.ceil(sides / sides.max() * resolution) + 1))
    print(f"mesh of {resolution} cubed: {cpu_s:.2f} CPU s, {wall_s:.2f} s, {found.n_evaluations:,} evaluations (dense "
          f"{n_dense:,}), {found.mesh.n_faces:,} triangles", flush=True)  # fmt: skip


def fit(head: NeuralHead) -> None:
    """Time the fit of one scan."""
    from benchmarks.fit_optimisers import observed
    from nphm_core.fitting.fit import fit_heads

    observation = observed(head, 1, 5000, np.random.default_rng(0))[0][0].observation
    settings, generator = FitConfig(n_points=5000), torch.Generator().manual_seed(0)
    found, cpu_s, wall_s = _timed(lambda: fit_heads(head, [(observation,)], settings, generator=generator)[0])
    print(f"fit of 5000 points: {cpu_s:.1f} CPU s, {wall_s:.1f} s, {len(found.energies)} steps, median residual "
          f"{found.residual_mm[0]:.3f} mm", flush=True)  # fmt: skip


def _timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Give a result, its CPU seconds and its wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = call()
    return found, time.process_time() - cpu, time.perf_counter() - wall


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=256, help="cells along the longest side")
    parser.add_argument("--parts", nargs="+", choices=("values", "mesh", "fit"), default=("values", "mesh", "fit"))
    return parser


if __name__ == "__main__":
    main()
