"""Draw how the models were trained and what their fits look like: curves as SVG, a sheet of fits as JPEG."""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nphm_core.io.files import write_bytes, write_text
from nphm_core.report.curves import training_curves

_MAX_FITS = 12
_WIDTH = 900
_LABEL = 40
_MARGIN = 11
_BLUE = (23, 82, 158)
_PARTS = ("identity", "head")


def read_journals(models: Path, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Read what each training told, by model and stage."""
    out: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        for part in _PARTS:
            path = models / name / part / "train.jsonl"
            lines = path.read_text().splitlines() if path.is_file() else []
            for entry in map(json.loads, lines):
                out.setdefault(f"{name}, {entry['stage']}", []).append(entry)
    return out


def fits_by_scan(fits: Path, models: Sequence[str]) -> list[tuple[str, Path]]:
    """List the pictures of fits with their models: of the first scan those of all models, then of the next."""
    found = [(path.relative_to(fits / name), k, path) for k, name in enumerate(models)
             for path in (fits / name).rglob("fit.png")]  # fmt: skip
    return [(models[k], path) for _, k, path in sorted(found)]


def sheet_of_fits(pictures: Sequence[tuple[str, Path]]) -> bytes:
    """Give the first fits, each under its model's name, one below the other, as JPEG."""
    from PIL import Image

    from nphm_core.report.sheet import Sheet

    shown = []
    for name, path in pictures[:_MAX_FITS]:
        label = Sheet(_WIDTH, _LABEL)
        label.badge(_MARGIN, 12, name, 16, _BLUE)
        with Image.open(path) as image:
            shown += [label.image, image.convert("RGB").resize((_WIDTH, round(_WIDTH * image.height / image.width)))]
    sheet = Image.new("RGB", (_WIDTH, max(1, sum(image.height for image in shown))), "white")
    y = 0
    for image in shown:
        sheet.paste(image, (0, y))
        y += image.height
    stream = io.BytesIO()
    sheet.save(stream, format="JPEG", quality=85)
    return stream.getvalue()


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.model_report", description=__doc__)
    parser.add_argument("--results", required=True, type=Path, help="folder of the results")
    parser.add_argument("--models", required=True, nargs="+", help="models that were trained")
    parser.add_argument("--curves", required=True, type=Path, help="SVG to write")
    parser.add_argument("--fits", required=True, type=Path, help="JPEG to write")
    options = parser.parse_args()
    write_text(options.curves, training_curves(read_journals(options.results / "models", options.models)))
    write_bytes(options.fits, sheet_of_fits(fits_by_scan(options.results / "fits", options.models)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
