"""Make head scans with known truth, so that everything can be tried without real data.

Writes FOLDER/scans.tsv, the scans it names, and FOLDER/truth/SUBJECT/EXPRESSION.npz. As labs do, subjects come in
different units, orientations and formats: PLY in mm, PLY in metres turned any way with its unit unknown, textured OBJ
in cm with +z up. The same seed and template give the same bytes. About 3 CPU seconds a scan.
"""

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nphm_core.config import TemplateConfig
from nphm_core.errors import TemplateError
from nphm_core.io.files import write_json, write_npz, write_text
from nphm_core.io.ply import write_ply
from nphm_core.seeds import rng_for
from nphm_core.spaces import MM_PER_UNIT
from nphm_core.synthetic.delivery import write_obj
from nphm_core.synthetic.head_map import head_map
from nphm_core.synthetic.head_scan import SyntheticScan, deliver, make_scan
from nphm_core.synthetic.subject import EXPRESSIONS, HeadSurface, Subject, draw_subject
from nphm_core.template.template import Template, read_template
from pipelines.template import cached_template

log = logging.getLogger("pipelines.demo_scans")

_VERSION = 1
_Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


@dataclass(frozen=True)
class Delivery:
    """How a subject's scans come."""

    suffix: str
    mm_per_unit: float
    unit: str
    """What the scan table says; empty if it does not know."""
    orientation: str
    """`upright`, `z-up` or `any`."""


DELIVERIES = (
    Delivery(".ply", MM_PER_UNIT["mm"], "mm", "upright"),
    Delivery(".ply", MM_PER_UNIT["m"], "", "any"),
    Delivery(".obj", MM_PER_UNIT["cm"], "cm", "z-up"),
)
"""By subject, in turn."""


def main(arguments: list[str] | None = None) -> int:
    """Write the scans and give the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        template = read_template(_template_folder(options))
    except TemplateError as error:
        log.error("%s", error)
        return 1
    write_scans(Path(options.out), template, options.subjects, options.expressions, options.seed)
    print(Path(options.out) / "scans.tsv")
    return 0


def write_scans(out: Path, template: Template, n_subjects: int, n_expressions: int, seed: int) -> None:
    """Write scans, truth and, when all is there, the scan table."""
    surface = HeadSurface(head_map(template))
    rows: list[tuple[str, ...]] = []
    for number in range(n_subjects):
        name = f"s{number + 1:03d}"
        delivery = DELIVERIES[number % len(DELIVERIES)]
        subject = draw_subject(template.model.n_identity, rng=rng_for(seed, "demo_scans", name))
        for expression in list(EXPRESSIONS)[:n_expressions]:
            scan = _make(surface, subject, expression, delivery, rng_for(seed, "demo_scans", f"{name}/{expression}"))
            path = Path("scans") / name / f"{expression}{delivery.suffix}"
            _write_scan(out / path, scan)
            write_npz(out / "truth" / name / f"{expression}.npz", _truth_arrays(scan))
            neutral = EXPRESSIONS[expression].neutral
            rows.append((name, expression, neutral, path.as_posix(), delivery.unit, "", ""))
            log.info("%s/%s: %d triangles", name, expression, scan.mesh.n_faces)
    write_json(out / "truth" / "truth.json", _facts(template, seed))
    header = ("subject", "expression", "neutral", "path", "unit", "exclude", "reason")
    write_text(out / "scans.tsv", "".join("\t".join(row) + "\n" for row in (header, *rows)))


def _make(
    surface: HeadSurface, subject: Subject, expression: str, delivery: Delivery, rng: np.random.Generator
) -> SyntheticScan:
    scan = make_scan(surface, subject, EXPRESSIONS[expression], rng=rng, textured=delivery.suffix == ".obj")
    turn = {"upright": np.eye(3), "z-up": _Z_UP}.get(delivery.orientation)
    return deliver(scan, _random_rotation(rng) if turn is None else turn, delivery.mm_per_unit)


def _random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Draw uniformly from all rotations, by a random quaternion."""
    quaternion = rng.standard_normal(4)
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def _write_scan(path: Path, scan: SyntheticScan) -> None:
    if path.suffix == ".obj":
        write_obj(path, scan.mesh)
    else:
        write_ply(path, scan.mesh)


def _truth_arrays(scan: SyntheticScan) -> dict[str, np.ndarray]:
    truth = scan.truth
    return {
        "vertices_mm": truth.vertices.astype(np.float32),
        "hair_mm": truth.hair_mm.astype(np.float32),
        "identity": truth.coefficients.identity,
        "expression": truth.coefficients.expression,
        "joint_rotvec": truth.coefficients.rotations,
        "T_metric_head": truth.T_metric_head.matrix(),
    }


def _facts(template: Template, seed: int) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "seed": seed,
        "template": template.name,
        "template_hash": template.hash,
        "vertices_mm": "the template's vertices on the clean skin, in the scan's metric space (mm)",
        "hair_mm": "how far the scan lies above the skin at each vertex",
        "T_metric_head": "from the head model's frame in mm to the scan's metric space",
    }


def _template_folder(options: argparse.Namespace) -> Path:
    if options.template:
        return Path(options.template)
    return cached_template(options.cache, TemplateConfig(source=options.model))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.demo_scans", description=__doc__)
    parser.add_argument("--out", default="demo", help="folder to write (demo)")
    parser.add_argument("--subjects", type=int, default=6, help="number of subjects (6)")
    expressions = f"how many of {', '.join(EXPRESSIONS)} (3)"
    parser.add_argument("--expressions", type=int, default=3, choices=range(1, len(EXPRESSIONS) + 1), help=expressions)
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--template", help="folder of a template; its head model makes the scans")
    source.add_argument("--model", default="embedded", help="or a head model, from which a template is made (embedded)")
    parser.add_argument("--cache", default=".cache", help="folder in which templates lie (.cache)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
