"""Write a scan table from a folder of scans, each row with its guesses and the reasons for them.

Check the table before the first run: subjects, expressions, neutrals and units are guessed from names and sizes.
"""

import argparse
import csv
import io
import logging
import sys
from pathlib import Path

import numpy as np

from nphm_core.errors import NphmError, ScanTableError
from nphm_core.io.files import write_text
from nphm_core.io.guesses import GuessedRow, guess_rows
from nphm_core.io.meshes import SCAN_SUFFIXES, read_scan_file
from nphm_core.io.scan_table import read_scan_table

log = logging.getLogger("nphm")

COLUMNS = ("subject", "expression", "neutral", "path", "unit", "exclude", "reason", "guess")
_REMARK = "# Guessed by `python -m pipelines.init`: check each row; the column guess says why, and is not read.\n"


def write_guessed_table(folder: Path, out: Path, *, force: bool) -> list[GuessedRow]:
    """Write the table unless one with other content is there; give its rows."""
    if not folder.is_dir():
        raise ScanTableError(f"the folder of scans does not exist.\nName an existing one.\nFolder {folder}")
    rows = guess_rows(folder, _extent)
    if not rows:
        raise ScanTableError(
            f"the folder holds no scans, expected files with {' '.join(SCAN_SUFFIXES)}.\n"
            f"Name another folder, or write the table by hand.\nFolder {folder}"
        )
    text = _table_text(rows, out.parent)
    if out.exists() and out.read_bytes() == text.encode():
        return rows
    if out.exists() and not force:
        raise ScanTableError(
            "the scan table exists and differs from the guesses; it may hold corrections.\n"
            f"Pass --force to replace it, or --out to write another one.\nTable {out}"
        )
    write_text(out, text)
    read_scan_table(out)  # what is written must be readable
    return rows


def _extent(path: Path) -> float | None:
    try:
        vertices = read_scan_file(path).mesh.vertices
    except NphmError as error:
        log.warning("%s", error)
        return None
    good = vertices[np.isfinite(vertices).all(axis=1)]
    return float(np.linalg.norm(np.ptp(good, axis=0))) if len(good) else None


def _table_text(rows: list[GuessedRow], base: Path) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        path = row.path.resolve()
        path = path.relative_to(base.resolve()) if path.is_relative_to(base.resolve()) else path
        exclude = "yes" if row.exclude else ""
        writer.writerow(
            [row.subject, row.expression, row.neutral, path.as_posix(), row.unit, exclude, row.reason, row.guess]
        )
    return _REMARK + stream.getvalue()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.init", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the scans, or in a known data-set layout")
    parser.add_argument("--out", type=Path, default=Path("scans.tsv"), help="table to write (default: scans.tsv)")
    parser.add_argument("--force", action="store_true", help="replace a table that differs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        rows = write_guessed_table(options.folder, options.out, force=options.force)
    except NphmError as error:
        log.error("%s: %s", type(error).__name__, error)
        sys.exit(1)
    subjects = {row.subject for row in rows}
    closed = {row.subject for row in rows if row.neutral == "closed"}
    opened = {row.subject for row in rows if row.neutral == "open"}
    print(f"{options.out}: {len(rows)} scans of {len(subjects)} subjects, {sum(r.exclude for r in rows)} excluded")
    print(f"neutrals guessed: closed for {len(closed)}, open for {len(opened)} of {len(subjects)} subjects")
    print("Check the table before the first run; the column guess says why each value was chosen.")


if __name__ == "__main__":
    main()
