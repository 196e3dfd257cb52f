"""Read a scan as delivered and write it as scan.ply: validated, cleaned, vertex order kept."""

import argparse
import os
from pathlib import Path
from typing import Any

from nphm_core.io.layouts import read_nphm_mm_per_unit
from nphm_core.io.meshes import read_scan_file, write_mesh
from nphm_core.io.scan_table import row_facts
from nphm_core.io.verdicts import VARIABLE, read_judged_table
from nphm_core.registration.ingest import ingest_scan
from nphm_core.spaces import MM_PER_UNIT
from pipelines.stage_command import Job, stage_command


def process(job: Job) -> dict[str, Any]:
    """Bring the scan that the table names into its folder."""
    table = read_judged_table(Path(job.options.table), job.options.verdicts)
    row = row_facts(table, job.scan_id, job.options.canonical)
    path = Path(row["path"])
    texture = Path(row["texture"]) if row["texture"] else None
    scan = ingest_scan(read_scan_file(path, texture=texture, texture_origin=row["texture_origin"]), job.settings, path)
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
    return {"row": row, "statistics": scan.statistics, "notes": list(scan.notes), "warnings": list(scan.warnings)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this stage asks for."""
    parser.add_argument("--table", required=True, help="scan table, or folder in the NPHM data-set layout")
    text = f"verdicts given in the gallery (default: what {VARIABLE} names, as the workflow sets it)"
    parser.add_argument("--verdicts", type=Path, default=os.environ.get(VARIABLE) or None, help=text)
    parser.add_argument("--canonical", choices=("open", "closed"), default="open", help="neutral of canonical space")


if __name__ == "__main__":
    stage_command("ingest", process, extra=add_options)
