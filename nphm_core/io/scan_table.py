"""The scan table: a TSV that names every scan, or a folder in the NPHM data-set layout in its place.

One row a scan; relative paths start at the table's folder; lines that start with `#` are remarks. The Snakefile reads
it at every start: standard library only, and missing files are not looked for, as a missing file is the verdict on
one scan and not the end of the run.
"""

import csv
import difflib
import re
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from nphm_core.errors import ScanTableError
from nphm_core.io.layouts import find_nphm_scans

UNITS = ("auto", "um", "mm", "cm", "m", "in", "arbitrary", "nphm")
"""Units a row may name: `auto` proposes one from the head's size, `arbitrary` has none, `nphm` is that data set's."""

COLUMNS = {
    "subject": "who: letters, digits and hyphens",
    "expression": "which performed expression: letters, digits and hyphens",
    "neutral": "closed or open for the two scans that define a subject's geometry; empty for all others",
    "path": "the scan's file; relative paths start at this table's folder",
    "unit": f"one of {', '.join(UNITS)}; empty means auto",
    "exclude": "yes leaves the scan out; empty or no keeps it",
    "reason": "why a scan is left out; free text",
    "landmarks": "optional file with landmarks picked by hand: .json, .pp of MeshLab, .txt, .csv or .tsv",
    "mask": "optional .npy or text file, one number for each vertex as delivered: 1 to use it, 0 to ignore it",
    "texture": "optional colour image, in place of what the scan's file names",
    "texture_origin": "top or bottom: where the texture's coordinate v = 0 lies; empty for the file format's own rule",
    "guess": "why `pipelines.init` guessed this row; not read",
}
"""Columns of the table and what they mean."""

_REQUIRED = ("subject", "expression", "path")
_YES, _NO = ("yes", "1", "true", "y", "x"), ("", "no", "0", "false", "n")
_NEUTRAL = {"closed": "closed", "open": "open"} | dict.fromkeys(_YES, "closed") | dict.fromkeys(_NO, "")
_ID = re.compile(r"[A-Za-z0-9-]+")
_MAX_SHOWN = 10


@dataclass(frozen=True)
class ScanRow:
    """One row of the table."""

    subject: str
    expression: str
    path: Path
    """Absolute, or relative to the working directory as the table's path is; so are the other files."""
    neutral: str = ""
    """`closed`, `open`, or empty."""
    unit: str = "auto"
    exclude: bool = False
    reason: str = ""
    landmarks: Path | None = None
    mask: Path | None = None
    texture: Path | None = None
    texture_origin: str = ""
    line: int = 0
    """Line in the table; 0 if there is none."""

    @property
    def scan_id(self) -> str:
        """`subject/expression`."""
        return f"{self.subject}/{self.expression}"


@dataclass(frozen=True)
class ScanTable:
    """All rows, and who belongs to whom."""

    path: Path
    rows: tuple[ScanRow, ...]
    """Included scans, in the table's order."""
    excluded: tuple[ScanRow, ...] = field(default=())

    @cached_property
    def _by_id(self) -> dict[str, ScanRow]:
        return {row.scan_id: row for row in self.rows}

    @cached_property
    def _neutrals(self) -> dict[tuple[str, str], ScanRow]:
        return {(row.subject, row.neutral): row for row in self.rows if row.neutral}

    def row(self, scan_id: str) -> ScanRow:
        """Give the included row of a scan; ScanTableError if there is none."""
        if scan_id in self._by_id:
            return self._by_id[scan_id]
        for row in self.excluded:
            if row.scan_id == scan_id:
                raise ScanTableError(
                    f"the scan is excluded ({row.reason or 'no reason given'}), expected an included one.\n"
                    f"Clear its column exclude to use it.\nScan {scan_id}, table {self.path}"
                )
        near = difflib.get_close_matches(scan_id, self._by_id, n=1)
        hint = f"Did you mean {near[0]}?" if near else "Add a row for it."
        raise ScanTableError(f"the scan has no row in the scan table. {hint}\nScan {scan_id}, table {self.path}")

    def identity_scan(self, subject: str) -> ScanRow | None:
        """Give the scan that fixes a subject's identity: the closed neutral, else the open one, else None."""
        return self._neutrals.get((subject, "closed")) or self._neutrals.get((subject, "open"))

    def canonical_scan(self, subject: str, neutral: str) -> ScanRow | None:
        """Give a subject's `open` or `closed` neutral; None if no included scan is marked so."""
        return self._neutrals.get((subject, neutral))

    def check_files(self) -> None:
        """Raise one ScanTableError that names every missing file of the included scans."""
        missing = [
            f"{row.scan_id}: {name} {path}"
            for row in self.rows
            for name in ("path", "landmarks", "mask", "texture")
            if (path := getattr(row, name)) is not None and not path.is_file()
        ]
        if missing:
            raise ScanTableError(
                f"{len(missing)} files of the scan table are missing, expected all of them to exist.\n"
                "Correct their paths, or set exclude = yes for their scans.\n"
                f"Table {self.path}\n" + "\n".join(missing)
            )


def read_scan_table(path: Path) -> ScanTable:
    """Read a scan table, or list a folder in the NPHM layout; ScanTableError names rows and columns that are wrong."""
    path = Path(path)
    if path.is_dir():
        return _read_layout(path)
    header, lines = _read_lines(path)
    problems, rows = _check_header(header), []
    if not problems:
        for number, cells in lines:
            row = _read_row(dict(zip(header, cells, strict=False)), len(cells) - len(header), number, path, problems)
            if row is not None:
                rows.append(row)
        problems += _clashes(rows)
    if problems:
        shown = problems[:_MAX_SHOWN]
        more = [f"and {len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
        raise ScanTableError("\n".join([*shown, *more]) + f"\nCorrect the scan table and run again. Table {path}")
    return ScanTable(path, tuple(r for r in rows if not r.exclude), tuple(r for r in rows if r.exclude))


def row_facts(table: ScanTable, scan_id: str, canonical: str) -> dict[str, Any]:
    """Give a row as plain facts, with the ids of the subject's identity scan and canonical scan (empty if none)."""
    row = table.row(scan_id)
    facts: dict[str, Any] = {
        f.name: getattr(row, f.name) for f in fields(row) if f.name not in ("exclude", "reason", "line")
    }
    for name in ("path", "landmarks", "mask", "texture"):
        facts[name] = str(facts[name]) if facts[name] is not None else ""
    identity, neutral = table.identity_scan(row.subject), table.canonical_scan(row.subject, canonical)
    return facts | {
        "identity_scan": identity.scan_id if identity else "",
        "canonical_scan": neutral.scan_id if neutral else "",
    }


def scan_table_schema() -> dict[str, Any]:
    """Give the JSON schema of one row, as `workflow/schemas/scans.schema.json` holds it."""
    values = {"unit": ["", *UNITS], "neutral": sorted(_NEUTRAL), "exclude": sorted({*_YES, *_NO})}
    values["texture_origin"] = ["", "bottom", "top"]
    properties: dict[str, Any] = {}
    for name, meaning in COLUMNS.items():
        properties[name] = {"type": "string", "description": meaning}
        if name in values:
            properties[name]["enum"] = values[name]
        if name in ("subject", "expression"):
            properties[name]["pattern"] = f"^{_ID.pattern}$"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "description": "one row of the scan table",
        "type": "object",
        "properties": properties,
        "required": list(_REQUIRED),
        "additionalProperties": False,
    }


def _read_layout(folder: Path) -> ScanTable:
    found = find_nphm_scans(folder)
    if not found:
        raise ScanTableError(
            "the folder holds no scans in the NPHM layout, expected <subject>/<expression>/scan.ply with numbers.\n"
            "Name a scan table instead; `python -m pipelines.init FOLDER` writes one from a folder.\n"
            f"Folder {folder}"
        )
    rows = [ScanRow(s.subject, s.expression, s.path, neutral=s.neutral, unit="nphm") for s in found]
    return ScanTable(folder, tuple(rows))


def _read_lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise ScanTableError(
            f"the scan table cannot be read ({error.strerror}), expected a TSV file or a folder in the NPHM layout.\n"
            f"`python -m pipelines.init FOLDER` writes a table from a folder of scans.\nTable {path}"
        ) from None
    except UnicodeDecodeError:
        raise ScanTableError(f"the scan table is not UTF-8.\nSave it as UTF-8 text.\nTable {path}") from None
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    if not lines:
        raise ScanTableError(f"the scan table is empty, expected a header line and a row a scan.\nTable {path}")
    try:
        cells = list(csv.reader((line for _, line in lines), delimiter="\t"))
    except csv.Error as error:
        raise ScanTableError(f"the scan table is no TSV ({error}).\nSave it as TSV.\nTable {path}") from None
    # A quoted cell may hold a line break, which would shift the numbers: such a table is refused here.
    if len(cells) != len(lines):
        raise ScanTableError(f"a quoted cell of the scan table spans lines.\nKeep each scan in one line.\nTable {path}")
    numbered = [(i, [cell.strip() for cell in row]) for (i, _), row in zip(lines, cells, strict=True)]
    return numbered[0][1], numbered[1:]


def _check_header(header: list[str]) -> list[str]:
    if len(header) == 1 and re.search("[,;]", header[0]):
        return ["the scan table's columns are separated by commas or semicolons, expected tabs: save it as TSV"]
    problems = []
    for name in header:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name.lower(), COLUMNS, n=1)
            known = f"did you mean {near[0]}?" if near else f"known columns: {', '.join(COLUMNS)}"
            problems.append(f"the column {name!r} is unknown; {known}")
    problems += [f"the column {name} appears twice" for name in COLUMNS if header.count(name) > 1]
    return problems + [f"the column {name} is missing" for name in _REQUIRED if name not in header]


def _read_row(cells: dict[str, str], extra: int, line: int, table: Path, problems: list[str]) -> ScanRow | None:
    n_before = len(problems)

    def complain(column: str, expected: str) -> None:
        problems.append(f"line {line}, column {column}: found {cells.get(column, '')!r}, expected {expected}")

    if extra > 0:
        problems.append(f"line {line} has {extra} cells more than the header")
    for name in ("subject", "expression"):
        if not _ID.fullmatch(cells.get(name, "")):
            complain(name, "letters, digits and hyphens only")
    lower = {name: cells.get(name, "").lower() for name in ("neutral", "unit", "exclude", "texture_origin")}
    if lower["neutral"] not in _NEUTRAL:
        complain("neutral", "closed, open, or nothing")
    if lower["unit"] not in ("", *UNITS):
        complain("unit", f"one of {', '.join(UNITS)}, or nothing")
    if lower["exclude"] not in (*_YES, *_NO):
        complain("exclude", "yes, no, or nothing")
    if lower["texture_origin"] not in ("", "top", "bottom"):
        complain("texture_origin", "top, bottom, or nothing")
    if not cells.get("path") and lower["exclude"] not in _YES:
        complain("path", "the scan's file")
    if len(problems) > n_before:
        return None
    paths = {n: table.parent / cells[n] if cells.get(n) else None for n in ("path", "landmarks", "mask", "texture")}
    return ScanRow(
        subject=cells["subject"],
        expression=cells["expression"],
        path=paths["path"] or table.parent,
        neutral=_NEUTRAL[lower["neutral"]],
        unit=lower["unit"] or "auto",
        exclude=lower["exclude"] in _YES,
        reason=cells.get("reason", ""),
        landmarks=paths["landmarks"],
        mask=paths["mask"],
        texture=paths["texture"],
        texture_origin=lower["texture_origin"],
        line=line,
    )


def _clashes(rows: list[ScanRow]) -> list[str]:
    problems, seen = [], dict[str, ScanRow]()
    for row in rows:
        # On some disks two ids that differ in case only would share a folder.
        first = seen.setdefault(row.scan_id.lower(), row)
        if first is not row:
            problems.append(
                f"lines {first.line} and {row.line} are both the scan {row.scan_id}, expected one row a scan"
            )
    neutrals: dict[tuple[str, str], ScanRow] = {}
    for row in rows:
        if row.neutral and not row.exclude:
            first = neutrals.setdefault((row.subject, row.neutral), row)
            if first is not row:
                problems.append(
                    f"lines {first.line} and {row.line}, column neutral: both are the {row.neutral} neutral of"
                    f" {row.subject}, expected one at most"
                )
    return problems
