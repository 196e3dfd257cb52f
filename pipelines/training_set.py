"""Write the training set: which scans are trained on, which are held out, which are left out and why.

A scan is left out if a stage failed on it, if its verdict is `failed`, or if its subject has no usable canonical
neutral. Suspicious scans stay: reject them in the gallery, or exclude them in the scan table, if you do not want them.
"""

import argparse
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from nphm_core.errors import NphmError, TrainingError
from nphm_core.io.scan_table import ScanRow, ScanTable
from nphm_core.io.training_set import TrainingRow, write_training_set
from nphm_core.io.verdicts import read_judged_table
from nphm_core.records import read_record

log = logging.getLogger("pipelines.training_set")

_SAMPLED = {"sample_sdf": "samples_sdf.safetensors", "sample_delta": "samples_delta.safetensors"}


def training_rows(table: ScanTable, results: Path, canonical: str, held_out: tuple[str, ...]) -> list[TrainingRow]:
    """Give a row for each included scan, in the table's order; TrainingError names held-out subjects it lacks."""
    known = {row.subject for row in table.rows}
    missing = sorted(set(held_out) - known)
    if missing:
        raise TrainingError(
            f"{len(missing)} held-out subjects are not in the scan table; expected subjects of the table. "
            f"Correct held_out in the config. Missing: {', '.join(missing)}"
        )
    troubles = {row.scan_id: _trouble(results, row) for row in table.rows}
    rows = []
    for row in table.rows:
        neutral = table.canonical_scan(row.subject, canonical)
        reason = troubles[row.scan_id] or _canonical_trouble(row, neutral, canonical, troubles)
        role = "left-out" if reason else "held-out" if row.subject in held_out else "train"
        digests = {} if reason else _digests(results, row.scan_id)
        is_canonical = neutral is not None and neutral.scan_id == row.scan_id
        rows.append(TrainingRow(row.subject, row.expression, role, is_canonical, reason, **digests))
    return rows


def _trouble(results: Path, row: ScanRow) -> str:
    for stage in ("sample_sdf", "sample_delta", "evaluate"):
        record = read_record(results, row.scan_id, stage)
        if record is None:
            return f"the stage {stage} has not run"
        if record["status"] != "ok":
            return f"{record.get('blocked_by', stage)}: {record['reason']}"
    metrics = record["metrics"] if record else {}
    if metrics.get("verdict") == "failed":
        return f"{metrics['stage']}: {'; '.join(metrics['reasons'])}"
    return ""


def _canonical_trouble(row: ScanRow, neutral: ScanRow | None, canonical: str, troubles: dict[str, str]) -> str:
    if neutral is None:
        return f"the subject has no {canonical} neutral in the scan table"
    if troubles[neutral.scan_id]:
        return f"the subject's {canonical} neutral, {neutral.scan_id}, is left out"
    return ""


def _digests(results: Path, scan_id: str) -> dict[str, str]:
    artifacts: dict[str, Any] = {}
    for stage in ("arap", *_SAMPLED):
        artifacts |= (read_record(results, scan_id, stage) or {}).get("artifacts", {})
    return {
        "sdf_sha256": artifacts["samples_sdf.safetensors"]["sha256"],
        "delta_sha256": artifacts["samples_delta.safetensors"]["sha256"],
        "registered_sha256": artifacts["registered.ply"]["sha256"],
    }


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.training_set", description=__doc__)
    parser.add_argument("--table", required=True, type=Path, help="scan table, or folder in the NPHM data-set layout")
    parser.add_argument("--verdicts", type=Path, help="verdicts given in the gallery")
    parser.add_argument("--results", required=True, type=Path, help="folder of the results")
    parser.add_argument("--canonical", choices=("open", "closed"), default="open", help="neutral of canonical space")
    parser.add_argument("--hold-out", default="", help="subjects kept from training, with commas between them")
    parser.add_argument("--out", required=True, type=Path, help="TSV to write")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    try:
        held_out = tuple(name for name in options.hold_out.split(",") if name)
        table = read_judged_table(options.table, options.verdicts)
        rows = training_rows(table, options.results, options.canonical, held_out)
    except NphmError as error:
        log.error("%s", error)
        return 1
    write_training_set(options.out, rows)
    counts = Counter(row.role for row in rows)
    print(", ".join(f"{counts[role]} {role}" for role in ("train", "held-out", "left-out")))
    for row in rows:
        if row.role == "left-out":
            log.warning("left out: %s: %s", row.scan_id, row.reason)
    return 0


if __name__ == "__main__":
    sys.exit(main())
