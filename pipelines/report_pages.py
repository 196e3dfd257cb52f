"""Write tables (TSV), the methods (Markdown) and drawings (SVG, JPEG) of a run as pages for Snakemake's report."""

import argparse
import csv
import sys
from pathlib import Path

from nphm_core.io.files import write_text
from nphm_core.report.text_page import picture_page, table_page, text_page

_MIME = {".svg": "image/svg+xml", ".jpg": "image/jpeg"}


def page_of(path: Path) -> str:
    """Give the page of a file."""
    title = path.stem.replace("_", " ").capitalize()
    if path.suffix in _MIME:
        return picture_page(title, path.read_bytes(), _MIME[path.suffix])
    if path.suffix != ".tsv":
        return text_page(title, path.read_text())
    with path.open(newline="") as stream:
        return table_page(title, list(csv.DictReader(stream, delimiter="\t")))


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.report_pages", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="tables, texts, drawings: each becomes a page")
    parser.add_argument("--out", required=True, type=Path, help="folder of the pages")
    options = parser.parse_args()
    for path in options.files:
        write_text(options.out / f"{path.stem}.html", page_of(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
