"""Write the table of the data set, a row a scan, and say what failed, where, why, and where its picture lies."""

import argparse
import os
import statistics
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nphm_core.errors import NphmError
from nphm_core.evaluation.verdict import first_failure, stage_warnings
from nphm_core.io.scan_table import ScanRow, ScanTable
from nphm_core.io.verdicts import read_judged_table
from nphm_core.records import read_record, read_trouble, scan_folder
from nphm_core.stages import STAGES

_PICTURES = ("quality.png", "frontal.png")
_VERDICTS = ("ok", "suspicious", "failed", "excluded")
_WIDTH = 110


@dataclass(frozen=True)
class SummaryRow:
    """One scan in the table of the data set; empty where there is nothing to say."""

    scan: str
    verdict: str
    """ok, suspicious, failed, or excluded."""
    stage: str
    """Stage that failed or is to blame."""
    reason: str
    picture: str
    median_mm: float | None = None
    p95_mm: float | None = None
    matched_share: float | None = None
    covered_share: float | None = None
    scan_median_mm: float | None = None
    linear_fit_mm: float | None = None
    landmark_mm: float | None = None
    folded_faces: int | None = None
    unit: str = ""
    neutral: str = ""
    warnings: str = ""

    def cells(self) -> list[str]:
        """Give the cells of a TSV line; no cell holds a tab or a line break."""
        return ["" if value is None else " ".join(str(value).split()) for value in asdict(self).values()]


NUMBERS = tuple(f.name for f in fields(SummaryRow) if f.default is None)
"""Columns with numbers."""


def summary_rows(table: ScanTable, results: Path) -> list[SummaryRow]:
    """Give a row for every scan of the table in its order, the excluded ones last."""
    rows = [summary_row(row, results) for row in table.rows]
    return rows + [
        SummaryRow(row.scan_id, "excluded", "", row.reason or "no reason given", "", neutral=row.neutral, unit=row.unit)
        for row in table.excluded
    ]


def write_summary(path: Path, rows: Sequence[SummaryRow]) -> None:
    """Write the rows as TSV with a header; the same rows give the same bytes."""
    lines = ["\t".join(f.name for f in fields(SummaryRow)), *("\t".join(row.cells()) for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def report(rows: Sequence[SummaryRow]) -> str:
    """Give the report that ends a run: counts, medians over the data set, and every scan that is not ok."""
    n_all = sum(row.verdict != "excluded" for row in rows)
    counts = [f"{sum(row.verdict == verdict for row in rows)} {verdict}" for verdict in _VERDICTS]
    lines = [f"{n_all} scans: {', '.join(counts)}"]
    made = [row for row in rows if row.median_mm is not None]
    if made:
        lines += ["", f"medians over {len(made)} registered scans:", *_medians(made)]
    for verdict in ("failed", "suspicious"):
        chosen = [row for row in rows if row.verdict == verdict]
        if chosen:
            lines += ["", f"{verdict}:"]
            for row in chosen:
                lines += _told(row)
    return "\n".join(lines)


def failed_share(rows: Sequence[SummaryRow]) -> float:
    """Give the share of the included scans that failed; 0 without any."""
    included = [row for row in rows if row.verdict != "excluded"]
    return sum(row.verdict == "failed" for row in included) / len(included) if included else 0.0


def summary_row(row: ScanRow, results: Path) -> SummaryRow:
    """Say what became of an included scan."""
    folder = scan_folder(results, row.scan_id)
    picture = next((str(folder / name) for name in _PICTURES if (folder / name).is_file()), "")
    # One file a scan where all is well: there may be thousands, on a slow disk.
    evaluated = read_record(results, row.scan_id, "evaluate")
    if evaluated is None or evaluated["status"] != "ok":
        return _unevaluated(row, results, picture)
    metrics = evaluated["metrics"]
    return SummaryRow(
        row.scan_id,
        metrics["verdict"],
        metrics["stage"],
        "; ".join(metrics["reasons"]),
        picture,
        **{name: metrics.get(name) for name in NUMBERS},
        unit=metrics["unit"] or row.unit,
        neutral=row.neutral,
        warnings="; ".join(metrics["stage_warnings"]),
    )


def _unevaluated(row: ScanRow, results: Path, picture: str) -> SummaryRow:
    records = {name: record for name in STAGES if (record := read_record(results, row.scan_id, name)) is not None}
    stage, reason = first_failure(records) or _unfinished(records, results, row.scan_id)
    warnings = "; ".join(stage_warnings(records))
    return SummaryRow(
        row.scan_id, "failed", stage, reason, picture, unit=row.unit, neutral=row.neutral, warnings=warnings
    )


def _unfinished(records: dict[str, dict[str, Any]], results: Path, scan_id: str) -> tuple[str, str]:
    lacking = [name for name in STAGES if name not in records]
    troubles = {name: text for name in lacking if (text := read_trouble(results, scan_id, name))}
    stage = next(iter(troubles), lacking[0])
    return stage, troubles.get(stage) or f"the stage {stage} has not run; see its log, then run again"


def _medians(rows: Sequence[SummaryRow]) -> list[str]:
    def median(name: str) -> str:
        values = [float(value) for row in rows if (value := getattr(row, name)) is not None]
        return f"{statistics.median(values):.3f}" if values else "-"

    return [
        f"  distance on the face, registration to scan  {median('median_mm')} mm (95 % below {median('p95_mm')} mm)",
        f"  distance on the face, scan to registration  {median('scan_median_mm')} mm",
        f"  the same after the linear fit only          {median('linear_fit_mm')} mm",
        f"  share of the face that lies on the scan     {median('matched_share')}",
        f"  landmarks, found to registered              {median('landmark_mm')} mm",
    ]


def _told(row: SummaryRow) -> list[str]:
    where = f" in {row.stage}" if row.verdict == "failed" else ""
    numbers = f" (median {row.median_mm:.3f} mm)" if row.median_mm is not None else ""
    text = textwrap.wrap(row.reason, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_long_words=False)
    return [f"  {row.scan}{where}{numbers}", *text, f"    picture: {row.picture or 'none'}"]


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.summary", description=__doc__)
    parser.add_argument("--table", required=True, type=Path, help="scan table, or folder in the NPHM data-set layout")
    parser.add_argument("--verdicts", type=Path, help="verdicts given in the gallery")
    parser.add_argument("--results", required=True, type=Path, help="folder of the results")
    parser.add_argument("--out", required=True, type=Path, help="TSV to write")
    parser.add_argument("--max-failed-share", type=float, default=1.0, help="exit 1 if a larger share of scans failed")
    parser.add_argument("--canonical", choices=("open", "closed"), default="open", help="neutral of canonical space")
    options = parser.parse_args()
    try:
        table = read_judged_table(options.table, options.verdicts)
    except NphmError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    rows = summary_rows(table, options.results)
    write_summary(options.out, rows)
    print(report(rows))
    lacking = _without_canonical(table, options.canonical)
    if lacking:
        print(f"\nwithout an {options.canonical} neutral, so without a canonical expression: {', '.join(lacking)}")
    print(f"\ntable: {options.out}")
    share = failed_share(rows)
    if share > options.max_failed_share:
        print(
            f"{share:.0%} of the scans failed, more than {options.max_failed_share:.0%} (max_failed_share). "
            "Mend or exclude them, or raise the limit",
            file=sys.stderr,
        )
        return 1
    return 0


def _without_canonical(table: ScanTable, neutral: str) -> list[str]:
    subjects = dict.fromkeys(row.subject for row in table.rows)
    return [subject for subject in subjects if table.canonical_scan(subject, neutral) is None]


if __name__ == "__main__":
    sys.exit(main())
