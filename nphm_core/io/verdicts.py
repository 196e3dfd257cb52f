"""Verdicts that a person gave in the quality gallery: a TSV, and the scan table without what was rejected.

Columns `scan`, `verdict` (accepted, rejected or nothing), `note`, and `result`: which result was looked at. Only
`scan` and `verdict` are required. The Snakefile reads it at every start: standard library only.
"""

import csv
import difflib
from dataclasses import dataclass, replace
from pathlib import Path

from nphm_core.errors import ScanTableError
from nphm_core.io.scan_table import ScanTable, read_scan_table

VARIABLE = "NPHM_VERDICTS"
"""Environment variable by which a workflow names the verdicts to the stages of scans.

Not by their commands: who is rejected changes the rows of the subject's other scans, and those are tracked already.
"""

COLUMNS = ("scan", "verdict", "note", "result")
ACCEPTED, REJECTED = "accepted", "rejected"
VERDICTS = (ACCEPTED, REJECTED, "")
"""What a person may say of a scan; nothing where there is only a note."""


@dataclass(frozen=True)
class PersonVerdict:
    """What a person said of one scan."""

    scan_id: str
    verdict: str
    note: str = ""
    result: str = ""
    """Digest of the result that was looked at, shortened; empty if unknown."""

    @property
    def reason(self) -> str:
        """Why a rejected scan is left out, as summary and gallery tell it."""
        return f"rejected by hand: {self.note}" if self.note else "rejected by hand"


def read_verdicts(path: Path) -> tuple[PersonVerdict, ...]:
    """Read the TSV that the gallery downloads; ScanTableError names what is wrong in it."""
    lines = [line for line in _text(path).splitlines() if line.strip() and not line.startswith("#")]
    try:
        cells = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter="\t")]
    except csv.Error as error:
        raise ScanTableError(f"the verdicts are no TSV ({error}).\nDownload them again.\nFile {path}") from None
    header = cells[0] if cells else []
    if not {"scan", "verdict"} <= set(header) or not set(header) <= set(COLUMNS):
        raise ScanTableError(
            f"the verdicts have the columns {', '.join(header) or 'none'}; expected {', '.join(COLUMNS)} with tabs "
            f"between them.\nDownload them from the gallery again, or correct the first line.\nFile {path}"
        )
    found: dict[str, PersonVerdict] = {}
    for row in cells[1:]:
        data = dict(zip(header, row, strict=False))
        if data.get("verdict", "") not in VERDICTS:
            raise ScanTableError(
                f"the verdict {data['verdict']!r} is unknown; expected accepted, rejected or nothing.\n"
                f"Correct it.\nScan {data['scan']}, file {path}"
            )
        # Of two lines on one scan the later one counts, as the later click does.
        found[data["scan"]] = PersonVerdict(
            data["scan"], data.get("verdict", ""), data.get("note", ""), data.get("result", "")
        )
    return tuple(found.values())


def without_rejected(table: ScanTable, verdicts: tuple[PersonVerdict, ...]) -> ScanTable:
    """Give the table with rejected scans excluded, each with its reason; ScanTableError names scans it lacks."""
    rejected = {verdict.scan_id: verdict for verdict in verdicts if verdict.verdict == REJECTED}
    known = {row.scan_id for row in (*table.rows, *table.excluded)}
    for scan_id in rejected:
        if scan_id not in known:
            near = difflib.get_close_matches(scan_id, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else "Delete its line."
            raise ScanTableError(
                f"a rejected scan has no row in the scan table; expected scans of the table. {hint}\n"
                f"Scan {scan_id}, table {table.path}"
            )
    left_out = [row for row in table.rows if row.scan_id in rejected]
    excluded = [replace(row, exclude=True, reason=rejected[row.scan_id].reason) for row in left_out]
    rows = tuple(row for row in table.rows if row.scan_id not in rejected)
    return ScanTable(table.path, rows, (*table.excluded, *excluded))


def read_judged_table(path: Path, verdicts: Path | None) -> ScanTable:
    """Read a scan table and leave out what a person rejected; `verdicts` is None where there are none."""
    table = read_scan_table(path)
    return without_rejected(table, read_verdicts(verdicts)) if verdicts else table


def _text(path: Path) -> str:
    try:
        return Path(path).read_text("utf-8-sig")
    except OSError as error:
        raise ScanTableError(
            f"the verdicts cannot be read ({error.strerror}), expected the TSV that the gallery downloads.\n"
            f"Correct `verdicts` in the config, or empty it.\nFile {path}"
        ) from None
    except UnicodeDecodeError:
        raise ScanTableError(f"the verdicts are not UTF-8.\nSave them as UTF-8 text.\nFile {path}") from None
