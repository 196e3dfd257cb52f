"""All stages on real scans by other people, as delivered, turned at random and in another unit.

    python -m benchmarks.real_scans --template FOLDER [--template FOLDER ...] --out FOLDER

The scans lie in `--scans` (default: the folder scans/ below the environment's NPHM_SHARED). No unit, orientation or
landmark is given. *Moved* is the distance between the registered mesh of a turned or scaled copy, brought back, and
that of the scan as delivered, where both follow the scan on the face: the pose and the unit that a lab happens to use
should not matter. CPU seconds are those of all stages for that scan, imports not counted; what was there already costs
nothing.
"""

import argparse
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from benchmarks.stage_runs import FRONT_STAGES, print_table, run_stages
from nphm_core.config import SubdivideConfig
from nphm_core.evaluation.fine_template import fine_template
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import read_json, read_npz, write_json
from nphm_core.io.meshes import read_facts, read_mesh, read_scan_file
from nphm_core.io.ply import write_ply
from nphm_core.stages import STAGES
from nphm_core.template.template import read_template

SCALE = 1000.0
_HEADER = (
    "scan", "copy", "verdict", "unit", "fit mm", "median", "p95", "matched", "covered", "folded", "marks mm",
    "moved median", "moved p95", "CPU s",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A scan as delivered."""

    name: str
    path: str
    texture: str = ""
    texture_origin: str = ""


SOURCES = (
    Source("james", "menpo_james/james.obj"),
    Source("demoface", "meshmonk_demoface/DemoFace_10K.obj"),
    Source("lee", "lee_perry_smith/LeePerrySmith.glb", "lee_perry_smith/Map-COL.jpg", "bottom"),
    Source("sven", "standardcyborg_sven/fused_poisson_yup.ply"),
    Source("svencloud", "standardcyborg_sven/Expected.ply"),
)


@dataclass(frozen=True)
class Copy:
    """A scan as delivered, or turned and scaled."""

    source: str
    name: str
    path: Path
    rotation: ndarray
    scale: float
    texture: str = ""
    texture_origin: str = ""

    @property
    def scan_id(self) -> str:
        """Each copy is a subject of its own, so that no identity is shared."""
        return f"{self.source}-{self.name}/neutral"


def make_copies(source: Source, scans: Path, out: Path, n_turns: int) -> list[Copy]:
    """Give the scan as delivered, turned and scaled; copies are written as PLY unless they are there."""
    texture = str(scans / source.texture) if source.texture else ""
    copies = [Copy(source.name, "raw", scans / source.path, np.eye(3), 1.0, texture, source.texture_origin)]
    turns = [(f"turn{seed}", random_rotation(seed), 1.0) for seed in range(n_turns)]
    changes = [*turns, ("scale1000", np.eye(3), SCALE)] if n_turns else []
    for name, rotation, scale in changes:
        path = out / "delivered" / source.name / name / "scan.ply"
        copies.append(Copy(source.name, name, path, rotation, scale))
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_ply(path, _changed(copies[0], rotation, scale))
    return copies


def random_rotation(seed: int) -> ndarray:
    """Draw uniformly from all rotations."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def _changed(raw: Copy, rotation: ndarray, scale: float) -> Mesh:
    texture = Path(raw.texture) if raw.texture else None
    mesh = read_scan_file(raw.path, texture=texture, texture_origin=raw.texture_origin).mesh
    normals = None if mesh.normals is None else mesh.normals @ rotation.T
    return Mesh(scale * mesh.vertices @ rotation.T, mesh.faces, normals, mesh.colours, mesh.texture)


def write_table(path: Path, copies: list[Copy]) -> None:
    """Write the scan table; every unit is left to be found."""
    lines = ["subject\texpression\tneutral\tpath\tunit\ttexture\ttexture_origin"]
    for copy in copies:
        subject = copy.scan_id.split("/")[0]
        row = (subject, "neutral", "closed", copy.path.resolve(), "auto", copy.texture, copy.texture_origin)
        lines.append("\t".join(str(cell) for cell in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def run_all(copies: list[Copy], out: Path, templates: list[Path]) -> dict[Path, dict[str, float]]:
    """Run every stage with every template; give each scan's CPU seconds for each."""
    ids, table, front = [copy.scan_id for copy in copies], out / "scans.tsv", out / "front"
    front_s = run_stages(FRONT_STAGES, front, ids, table=table)
    total = {}
    for template in templates:
        results = out / template.name
        for scan_id in ids:
            # The hidden copies of the records come along: what is current is not made again.
            shutil.copytree(front / "scans" / scan_id, results / "scans" / scan_id, dirs_exist_ok=True)
        later = [name for name in STAGES if name not in FRONT_STAGES]
        own_s = run_stages(later, results, ids, table=table, template=template)
        total[template] = {scan_id: front_s[scan_id] + own_s[scan_id] for scan_id in ids}
    return total


class Registered:
    """The registered meshes of one template."""

    def __init__(self, results: Path, template: Path) -> None:
        self._results, self._template = results, read_template(template)
        self._face: dict[tuple[int, str], ndarray] = {}

    def row(self, copy: Copy, raw: Copy, cpu_s: float) -> list[object]:
        """Give a line of the table."""
        facts = read_json(self._folder(copy) / "metrics.json")
        moved = self._moved(copy, raw)
        fit = [] if facts["verdict"] == "failed" else [_mm(moved[0]), _mm(moved[1])]
        numbers = [facts.get(key) for key in ("median_mm", "p95_mm")]
        return [
            copy.source, copy.name, facts["verdict"], self._unit(copy), _mm(facts.get("linear_fit_mm"), 2),
            *(_mm(value) for value in numbers), _share(facts, "matched_share"), _share(facts, "covered_share"),
            facts.get("folded_faces", "-"), _mm(facts.get("landmark_mm"), 1), *(fit or ["-", "-"]), f"{cpu_s:.1f}",
        ]  # fmt: skip

    def reasons(self, copy: Copy) -> list[str]:
        """Give why a scan is not ok."""
        facts = read_json(self._folder(copy) / "metrics.json")
        return [f"{facts['stage']}: {reason}" for reason in facts["reasons"]]

    def _unit(self, copy: Copy) -> str:
        path = self._folder(copy) / "landmarks3d.json"
        return f"{read_json(path)['unit']} ({read_json(path)['mm_per_scan_unit']:.4g} mm)" if path.is_file() else "-"

    def _moved(self, copy: Copy, raw: Copy) -> tuple[float | None, float | None]:
        paths = [self._folder(item) / "registered.ply" for item in (copy, raw)]
        if copy is raw or not all(path.is_file() for path in paths):
            return None, None
        own, of_raw = (read_mesh(path).vertices for path in paths)
        # In the file's own unit, turned back, then in the mm of the scan as delivered.
        in_scan = own / self._mm_per_unit(copy) / copy.scale @ copy.rotation
        follows = self._face_of(paths[0]) & self._follows(copy) & self._follows(raw)
        distance = np.linalg.norm(in_scan * self._mm_per_unit(raw) - of_raw, axis=1)[follows]
        return float(np.median(distance)), float(np.percentile(distance, 95))

    def _follows(self, copy: Copy) -> ndarray:
        weight: ndarray = read_npz(self._folder(copy) / "registered_weights.npz")["weight"]
        return weight > 0

    def _mm_per_unit(self, copy: Copy) -> float:
        return float(read_json(self._folder(copy) / "landmarks3d.json")["mm_per_scan_unit"])

    def _face_of(self, path: Path) -> ndarray:
        facts = read_facts(path)
        key = (facts["levels"], facts["region"])
        if key not in self._face:
            settings = SubdivideConfig(levels=key[0], region=key[1])
            self._face[key] = fine_template(self._template, settings).regions["face"]
        return self._face[key]

    def _folder(self, copy: Copy) -> Path:
        return self._results / "scans" / copy.scan_id


def _mm(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(facts: dict[str, Any], key: str) -> str:
    return "-" if facts.get(key) is None else f"{facts[key]:.0%}"


def main() -> int:
    """Run everything and print one table for each template."""
    options = _parser().parse_args()
    if not options.scans:
        print("name the folder of the scans with --scans, or set NPHM_SHARED", file=sys.stderr)
        return 2
    scans, out = Path(options.scans), Path(options.out)
    chosen = [source for source in SOURCES if not options.only or source.name in options.only]
    copies = [copy for source in chosen for copy in make_copies(source, scans, out, options.turns)]
    raw = {copy.source: copy for copy in copies if copy.name == "raw"}
    write_table(out / "scans.tsv", copies)
    for template, cpu_s in run_all(copies, out, [Path(folder) for folder in options.template]).items():
        table = Registered(out / template.name, template)
        rows = [table.row(copy, raw[copy.source], cpu_s[copy.scan_id]) for copy in copies]
        print(f"\n## Template {template.name}\n")
        print_table(_HEADER, rows)
        print()
        for copy in copies:
            for reason in table.reasons(copy):
                print(f"- {copy.source} {copy.name}: {reason}")
        write_json(out / f"{template.name}.json", {"header": list(_HEADER), "rows": rows})
    return 0


def _parser() -> argparse.ArgumentParser:
    shared = os.environ.get("NPHM_SHARED")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_scans", description=__doc__)
    parser.add_argument("--scans", default=str(Path(shared) / "scans") if shared else "", help="folder of the scans")
    parser.add_argument("--template", action="append", required=True, help="folder of a template; may be repeated")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--turns", type=int, default=5, help="random rotations of each scan (5); 0: as delivered only")
    parser.add_argument("--only", action="append", help="name of a scan; may be repeated")
    return parser


if __name__ == "__main__":
    sys.exit(main())
