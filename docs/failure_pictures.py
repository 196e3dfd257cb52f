"""Break a synthetic scan in the ways that real ones are broken, run every stage, and keep the quality pictures.

    python -m docs.failure_pictures --template .cache/templates/NAME --work DIR

makes the pictures of docs/failures.md. No real face is in them. About three minutes on one core.
"""

import argparse
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image

from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.subdivision import loop_subdivision
from nphm_core.io.ply import read_ply, write_ply
from nphm_core.records import read_record, scan_folder
from nphm_core.stages import STAGES
from nphm_core.template.template import read_template
from pipelines.demo_scans import write_scans

log = logging.getLogger("docs.failure_pictures")

WIDTH_PX = 1200
QUALITY = 84
_LONGEST_HOLE_MM = 9.0


@dataclass(frozen=True)
class Case:
    """One way to break a scan."""

    broken: Callable[[Mesh, Float[ndarray, " 3"]], Mesh]
    """Takes an upright scan in mm and the tip of its nose."""
    unit: str = "mm"
    """What the scan table says."""


def _cut(mesh: Mesh, gone: Bool[ndarray, " n_vertices"]) -> Mesh:
    """Remove the triangles at some vertices."""
    kept = mesh.faces[~gone[mesh.faces].any(axis=1)]
    used = np.unique(kept)
    index = np.zeros(mesh.n_vertices, np.int64)
    index[used] = np.arange(len(used))
    return Mesh(mesh.vertices[used], index[kept], colours=None if mesh.colours is None else mesh.colours[used])


def _cube(mesh: Mesh, nose: ndarray) -> Mesh:
    corners = np.array([[x, y, z] for z in (-1, 1) for y in (-1, 1) for x in (-1, 1)], float) * 100
    quads = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]
    vertices, faces = corners, np.array([f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))])
    for _ in range(4):
        step = loop_subdivision(faces, len(vertices), scheme="midpoint")
        vertices, faces = step.matrix @ vertices, step.faces
    return Mesh(vertices, faces)


def _two_heads(mesh: Mesh, nose: ndarray) -> Mesh:
    both = np.concatenate([mesh.vertices, mesh.vertices + np.array([290.0, 0, 0])])
    colours = None if mesh.colours is None else np.concatenate([mesh.colours, mesh.colours])
    return Mesh(both, np.concatenate([mesh.faces, mesh.faces + mesh.n_vertices]), colours=colours)


def _torn(mesh: Mesh, nose: ndarray) -> Mesh:
    rng = np.random.default_rng(0)
    centres = mesh.vertices[rng.choice(mesh.n_vertices, 160, replace=False)]
    gone = np.zeros(mesh.n_vertices, bool)
    for centre in centres:
        gone |= ((mesh.vertices - centre) ** 2).sum(1) < rng.uniform(3.0, _LONGEST_HOLE_MM) ** 2
    return _cut(mesh, gone)


def _noisy(mesh: Mesh, nose: ndarray) -> Mesh:
    return mesh.with_vertices(mesh.vertices + 2.0 * np.random.default_rng(0).standard_normal(mesh.vertices.shape))


def _within(mesh: Mesh, centre: ndarray, radius_mm: float) -> ndarray:
    near: ndarray = ((mesh.vertices - centre) ** 2).sum(1) < radius_mm**2
    return near


CASES = {
    "cube": Case(_cube),
    "back": Case(lambda mesh, nose: _cut(mesh, mesh.vertices[:, 2] > nose[2] - 90)),
    "two-heads": Case(_two_heads),
    "cut-brow": Case(lambda mesh, nose: _cut(mesh, mesh.vertices[:, 1] > nose[1] + 28)),
    "half-face": Case(lambda mesh, nose: _cut(mesh, mesh.vertices[:, 0] < nose[0] - 8)),
    "no-mouth": Case(lambda mesh, nose: _cut(mesh, _within(mesh, nose + [0, -38.0, -12], 34))),
    "wrong-unit": Case(lambda mesh, nose: mesh.with_vertices(mesh.vertices / 1000)),
    "torn": Case(_torn),
    "noisy": Case(_noisy),
    "inside-out": Case(lambda mesh, nose: Mesh(mesh.vertices, mesh.faces[:, ::-1].copy(), colours=mesh.colours)),
}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m docs.failure_pictures", description=__doc__)
    parser.add_argument("--template", required=True, type=Path, help="folder of a template")
    parser.add_argument("--work", required=True, type=Path, help="folder for scans and results")
    parser.add_argument("--out", default=Path("docs/failures"), type=Path, help="folder of the pictures")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, help="some of them only")
    options = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    write_scans(options.work / "demo", read_template(options.template), 1, 1, 0)
    whole = read_ply(options.work / "demo/scans/s001/neutral.ply").mesh
    table = write_broken(whole, options.cases, options.work)
    scans = [f"{name}/neutral" for name in options.cases]
    for stage in STAGES.values():
        run(stage.name, scans, table, options.template, options.work / "results")
    for name, scan in zip(options.cases, scans, strict=True):
        record = read_record(options.work / "results", scan, "evaluate") or {}
        metrics = record.get("metrics", {})
        reasons = "; ".join(metrics.get("reasons", [record.get("reason", "no record")]))
        log.info("%s: %s %s %s", name, metrics.get("verdict", "no verdict"), metrics.get("stage", ""), reasons)
        keep(scan_folder(options.work / "results", scan) / "quality.png", options.out / f"{name}.jpg")
    return 0


def write_broken(whole: Mesh, names: Sequence[str], folder: Path) -> Path:
    """Write the broken scans and their table."""
    middle = np.abs(whole.vertices[:, 0] - np.median(whole.vertices[:, 0])) < 20
    nose = whole.vertices[middle][np.argmax(whole.vertices[middle, 2])]
    lines = ["subject\texpression\tneutral\tpath\tunit"]
    for name in names:
        write_ply(folder / f"{name}.ply", CASES[name].broken(whole, nose))
        lines.append(f"{name}\tneutral\topen\t{name}.ply\t{CASES[name].unit}")
    table = folder / "scans.tsv"
    table.write_text("\n".join(lines) + "\n")
    return table


def run(stage: str, scans: Sequence[str], table: Path, template: Path, results: Path) -> None:
    """Run one stage on all scans, as a rule would."""
    command = [sys.executable, "-m", f"pipelines.{stage}", *scans, "--results", str(results)]
    if stage == "ingest":
        command += ["--table", str(table)]
    if STAGES[stage].uses_template:
        command += ["--template", str(template)]
    subprocess.run(command, check=True)


def keep(picture: Path, out: Path) -> None:
    """Write a picture smaller."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(picture) as image:
        image.thumbnail((WIDTH_PX, WIDTH_PX), Image.Resampling.LANCZOS)
        image.convert("RGB").save(out, quality=QUALITY, subsampling=0, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
