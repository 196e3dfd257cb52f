"""Read a scan as delivered and write it as scan.ply: validated, cleaned, vertex order kept."""

import argparse
import os
from pathlib import Path
from typing import Any

from nphm_core.errors import LandmarkFileError, ScanFileError
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import write_json, write_npz
from nphm_core.io.landmark_file import read_landmark_file
from nphm_core.io.layouts import read_nphm_mm_per_unit
from nphm_core.io.mask_file import read_mask_file
from nphm_core.io.meshes import read_scan_file, write_mesh
from nphm_core.io.verdicts import VARIABLE
from nphm_core.registration.ingest import ingest_scan, kept_vertices
from nphm_core.registration.scan_surface import MASKED_BELOW
from nphm_core.spaces import MM_PER_UNIT
from pipelines.stage_command import Job, scan_row, stage_command


def process(job: Job) -> dict[str, Any]:
    """Bring the scan that the table names into its folder."""
    row = scan_row(job.options, job.scan_id)
    path = Path(row["path"])
    texture = Path(row["texture"]) if row["texture"] else None
    delivered = read_scan_file(path, texture=texture, texture_origin=row["texture_origin"])
    scan = ingest_scan(delivered, job.settings, path)
    is_nphm = row["unit"] == "nphm"
    # None where the unit is still to be found from the head's size.
    row["mm_per_unit"] = read_nphm_mm_per_unit(path) if is_nphm else MM_PER_UNIT.get(row["unit"])
    facts = {
        "scan": job.scan_id,
        "space": "scan",
        "unit": row["unit"],
        "mm_per_unit": row["mm_per_unit"],
        "stage_version": job.stage.version,
        "statistics": scan.statistics,
        "notes": scan.notes,
    }
    write_mesh(job.out / "scan.ply", scan.mesh, facts)
    given = _write_given_landmarks(job, row["landmarks"], scan.mesh)
    masked = _write_mask(job, row["mask"], delivered.mesh, scan.mesh)
    told = {"row": row, "statistics": scan.statistics, **given, **masked}
    return told | {"notes": list(scan.notes), "warnings": list(scan.warnings)}


def _write_given_landmarks(job: Job, path: str, mesh: Mesh) -> dict[str, Any]:
    """Write the table's landmarks, checked and on the surface, and give what is to be told of them."""
    if not path:
        return {}
    # Late: it loads the compiled kernels, which most scans do not need here.
    from nphm_core.registration.given_landmarks import given_landmarks

    try:
        named = read_landmark_file(Path(path))
        given = given_landmarks(named, mesh, max_distance_mm=job.settings.max_landmark_distance_mm)
    except LandmarkFileError as error:
        raise LandmarkFileError(f"{error}\nScan {job.scan_id}, landmarks {path}") from None
    write_json(job.out / "given_landmarks.json", given.to_json())
    return {"given_landmarks": given.quality}


def _write_mask(job: Job, path: str, delivered: Mesh, mesh: Mesh) -> dict[str, Any]:
    """Write the table's mask for the vertices that are left of a scan."""
    if not path:
        return {}
    try:
        mask = read_mask_file(Path(path), delivered.n_vertices)[kept_vertices(delivered, mesh)]
    except ScanFileError as error:
        raise ScanFileError(f"{error}\nScan {job.scan_id}, mask {path}") from None
    write_npz(job.out / "mask.npz", {"keep": mask})
    return {"masked_share": round(float((mask < MASKED_BELOW).mean()), 4)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this stage asks for."""
    parser.add_argument("--table", required=True, help="scan table, or folder in the NPHM data-set layout")
    text = f"verdicts given in the gallery (default: what {VARIABLE} names, as the workflow sets it)"
    parser.add_argument("--verdicts", type=Path, default=os.environ.get(VARIABLE) or None, help=text)
    parser.add_argument("--canonical", choices=("open", "closed"), default="open", help="neutral of canonical space")


if __name__ == "__main__":
    stage_command("ingest", process, extra=add_options)
