"""Do the same inputs give the same bytes, whatever the order and number of jobs?

    python -m benchmarks.rebuild_check --template FOLDER --out FOLDER [--table FILE]

Builds the scans of a table three times from nothing: by the workflow on one core; by the workflow on all cores with the
table turned round; and stage by stage, all scans in one process, in another order, nothing made ahead. All records and
artifacts are compared, byte by byte; exits 1 if any differ. Without `--table`, six synthetic scans of two people are
made.
"""

import argparse
import os
import random
import shutil
import sys
from pathlib import Path

from benchmarks.fault_injection import differences
from benchmarks.fault_run import Run
from benchmarks.stage_runs import run_stages
from nphm_core.io.scan_table import read_scan_table
from nphm_core.stages import STAGES


def turned_round(table: Path, out: Path) -> Path:
    """Write the table with its rows in the opposite order and paths that hold from anywhere."""
    header, *rows = [line for line in table.read_text().splitlines() if line.strip() and not line.startswith("#")]
    place = header.split("\t").index("path")
    cells = [row.split("\t") for row in reversed(rows)]
    for row in cells:
        row[place] = str((table.parent / row[place]).resolve())
    out.write_text("\n".join([header, *("\t".join(row) for row in cells)]) + "\n")
    return out


def build(name: str, out: Path, table: Path, template: Path, cores: int) -> Path:
    """Build all scans by the workflow and give the folder of the results."""
    run = Run(out / name, table, template, "seed: 0\n", cores)
    if run.start().wait() != 0:
        raise RuntimeError(f"the run did not end well; see {run.log}")
    return run.results


def build_stage_by_stage(out: Path, table: Path, template: Path) -> Path:
    """Build all scans by the stages' commands alone, in a random order."""
    scan_ids = [row.scan_id for row in read_scan_table(table).rows]
    random.Random(0).shuffle(scan_ids)
    # A neutral goes before its subject's other scans, which take its identity and shape.
    rows = read_scan_table(table)
    first = [scan for scan in scan_ids if rows.row(scan).neutral]
    ordered = sorted(first, key=lambda scan: rows.row(scan).neutral) + [s for s in scan_ids if s not in first]
    run_stages(STAGES, out / "apart", ordered, table=table, template=template, canonical="open")
    return out / "apart"


def main() -> int:
    """Build three times, compare, and say what differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rebuild_check", description=__doc__)
    parser.add_argument("--template", required=True, type=Path, help="folder of the template")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--table", type=Path, help="scan table, in place of synthetic scans")
    options = parser.parse_args()
    out, template = options.out.resolve(), options.template.resolve()
    for name in ("one-core", "all-cores", "apart"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    table = options.table.resolve() if options.table else _synthetic(out, template)
    scan_ids = [row.scan_id for row in read_scan_table(table).rows]
    first = build("one-core", out, table, template, 1)
    others = [build("all-cores", out, turned_round(table, out / "turned.tsv"), template, os.cpu_count() or 1)]
    others.append(build_stage_by_stage(out, table, template))
    n_found = 0
    for other in others:
        found = differences(first, other, scan_ids)
        n_found += len(found)
        print(f"{other.relative_to(out)}: {len(found)} differences in {len(scan_ids)} scans", *found[:20], sep="\n  ")
    return 1 if n_found else 0


def _synthetic(out: Path, template: Path) -> Path:
    from pipelines.demo_scans import main as make_scans

    if not (out / "scans" / "scans.tsv").is_file():
        counts = ["--subjects", "2", "--expressions", "3"]
        if make_scans(["--out", str(out / "scans"), "--template", str(template), *counts]):
            raise RuntimeError("the synthetic scans could not be made")
    return out / "scans" / "scans.tsv"


if __name__ == "__main__":
    sys.exit(main())
