"""What `pipelines.fit` fits: scans as delivered, brought through the front end, or the artifacts of a run.

Everything is in metric space: the scan's own frame in mm. Where no unit is known and no face was found, that is not
possible before the fit, which then finds the size itself.
"""

import argparse
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nphm_core.config import Config
from nphm_core.errors import FittingError, NphmError
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import read_json, read_npz, write_text
from nphm_core.io.meshes import read_mesh
from nphm_core.records import read_record, scan_folder
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, MM_PER_UNIT, Similarity
from nphm_core.stages import STAGES

log = logging.getLogger("nphm")

_FRONT_STAGES = ("ingest", "render", "landmarks", "backproject", "flame_fit")


@dataclass(frozen=True)
class FitInput:
    """One scan that is to be fitted."""

    scan_id: str
    mesh: Mesh
    """In metric space, or in the file's unit where that is not known."""
    mm_per_unit: float | None
    """Millimetres in a unit of the mesh; None if that is not known."""
    anchors: Float[ndarray, "39 3"] | None = None
    T_canonical_mesh: Similarity | None = None
    """The pose to start from."""
    aligned_by: str = "search"
    is_metric: bool = True
    """Whether the mesh is in metric space; else the fit decides what a millimetre is."""
    warnings: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """Whose head it is."""
        return self.scan_id.split("/")[0]


def read_results(
    results: Path, template_folder: Path | None, scan_ids: list[str]
) -> tuple[list[FitInput], dict[str, str]]:
    """Read what the stages of a run wrote for scans, and say why some cannot be fitted.

    A scan without a face is no such case: its pose is searched for.
    """
    anchors = _anchor_vertices(template_folder)
    scans, failed = [], {}
    for scan_id in scan_ids:
        try:
            scans.append(_read_one(results, anchors, scan_id))
        except FittingError as error:
            failed[scan_id] = str(error)
    return scans, failed


def run_front_end(
    paths: list[Path], results: Path, template_folder: Path, unit: str, seed: int, *, separate: bool
) -> list[FitInput]:
    """Bring scan files through the stages that find the face, in a folder of their own."""
    ids = scan_ids_of(paths, separate=separate)
    table = results / "scans.tsv"
    rows = ["\t".join(("subject", "expression", "path", "unit"))]
    rows += [
        "\t".join((*scan_id.split("/"), str(path.resolve()), unit)) for scan_id, path in zip(ids, paths, strict=True)
    ]
    write_text(table, "\n".join(rows) + "\n")
    options = _front_end_options(table)
    options.results, options.template, options.seed = str(results), str(template_folder), seed
    for scan_id in ids:
        _run_stages(scan_id, options)
    scans, failed = read_results(results, template_folder, ids)
    if failed:
        raise FittingError("; ".join(failed.values()))
    return scans


def read_files(paths: list[Path], unit: str, *, separate: bool, is_upright: bool) -> list[FitInput]:
    """Read scan files without looking for faces; `is_upright` starts from the file's own pose."""
    from nphm_core.io.meshes import read_scan

    out = []
    for scan_id, path in zip(scan_ids_of(paths, separate=separate), paths, strict=True):
        mesh = read_scan(path)
        mm_per_unit = MM_PER_UNIT.get(unit)
        start = None
        if is_upright:
            if mm_per_unit is None:
                raise FittingError(
                    f"the pose is said to be given but the unit is {unit}; expected one of {', '.join(MM_PER_UNIT)}. "
                    "Give --unit, or leave --align out"
                )
            start = Similarity(mm_per_unit / MM_PER_CANONICAL_UNIT, np.eye(3), np.zeros(3))
        out.append(_in_mm(FitInput(scan_id, mesh, mm_per_unit, None, start, "given" if is_upright else "search")))
    return out


def scan_ids_of(paths: list[Path], *, separate: bool) -> list[str]:
    """Give ids made of the files' names, no two alike."""
    names: list[str] = []
    for path in paths:
        name = re.sub(r"[^A-Za-z0-9]+", "-", path.stem).strip("-") or "scan"
        n = sum(re.fullmatch(rf"{re.escape(name)}(-\d+)?", other) is not None for other in names)
        names.append(name if name not in names else f"{name}-{n + 1}")
    return [f"{name}/scan" if separate else f"subject/{name}" for name in names]


def _front_end_options(table: Path) -> argparse.Namespace:
    """Give what `ingest` asks for beside the options that all stages have, by its own parser."""
    from pipelines.ingest import add_options

    parser = argparse.ArgumentParser()
    add_options(parser)
    # Verdicts name scans of a data set, which these files are not.
    return argparse.Namespace(**{**vars(parser.parse_args(["--table", str(table)])), "verdicts": None})


def _run_stages(scan_id: str, options: argparse.Namespace) -> None:
    # Late: each of them loads what only it needs.
    import importlib

    from pipelines.stage_command import run_stage

    for name in _FRONT_STAGES:
        module = importlib.import_module(f"pipelines.{name}")
        record = run_stage(STAGES[name], module.process, scan_id, getattr(Config(), name), options)
        log.info("%s: %s %s", name, record["status"], record.get("reason", ""))
        if name == "ingest" and record["status"] != "ok":
            raise FittingError(f"{record['reason']}\nScan {scan_id}")


def _read_one(results: Path, anchors: ndarray | None, scan_id: str) -> FitInput:
    records = {name: read_record(results, scan_id, name) for name in ("ingest", "backproject", "flame_fit")}
    ingest = records["ingest"]
    if ingest is None or ingest["status"] != "ok":
        reason = "has no record of ingest" if ingest is None else f"was not read: {ingest['reason']}"
        raise FittingError(f"the scan {reason}; expected a scan that the workflow has read. Run it. Scan {scan_id}")
    folder = scan_folder(results, scan_id)
    mesh = read_mesh(folder / "scan.ply")
    if not _is_ok(records["backproject"]):
        mm_per_unit = ingest["metrics"]["row"].get("mm_per_unit")
        return _in_mm(FitInput(scan_id, mesh, mm_per_unit, warnings=(_no_face(records["backproject"]),)))
    facts = read_json(folder / "landmarks3d.json")
    faces = mesh.faces[:, ::-1] if facts.get("flip_faces", False) else mesh.faces
    scale = float(facts["mm_per_scan_unit"])
    metric = Mesh(mesh.vertices * scale, faces, mesh.normals, mesh.colours)
    mm_per_unit = None if facts["unit"] == "arbitrary" else 1.0
    if not _is_ok(records["flame_fit"]):
        # The head frame of the landmarks is upright, its middle near that of canonical space.
        T_head_metric = Similarity.from_json(facts["T_head_metric"])
        start = Similarity(1 / MM_PER_CANONICAL_UNIT, np.eye(3), np.zeros(3)) @ T_head_metric
        warning = "the linear head model was not fitted; the start is the landmarks' head frame"
        return FitInput(scan_id, metric, mm_per_unit, None, start, "landmarks", warnings=(warning,))
    start = Similarity.from_json(read_json(folder / "flame.json")["T_canonical_metric"])
    seen = None if anchors is None else read_npz(folder / "flame.npz")["vertices_mm"][anchors]
    return FitInput(scan_id, metric, mm_per_unit, seen, start, "faces")


def _in_mm(scan: FitInput) -> FitInput:
    """Bring a scan of known unit to mm."""
    if scan.mm_per_unit is None:
        return replace(scan, is_metric=False)
    scale, start = scan.mm_per_unit, scan.T_canonical_mesh
    if start is not None:
        start = start @ Similarity(1 / scale, np.eye(3), np.zeros(3))
    mesh = Mesh(scan.mesh.vertices * scale, scan.mesh.faces, scan.mesh.normals, scan.mesh.colours)
    return replace(scan, mesh=mesh, mm_per_unit=1.0, T_canonical_mesh=start)


def _is_ok(record: dict[str, Any] | None) -> bool:
    return record is not None and record["status"] == "ok"


def _no_face(record: dict[str, Any] | None) -> str:
    reason = "its landmarks were never looked for" if record is None else record["reason"]
    return f"no landmarks: the pose is searched for with the mean head ({reason})"


def _anchor_vertices(template_folder: Path | None) -> ndarray | None:
    if template_folder is None:
        return None
    from nphm_core.template.template import read_template

    try:
        return read_template(template_folder).anchors
    except NphmError as error:
        raise FittingError(f"the template cannot be read: {error}") from None
