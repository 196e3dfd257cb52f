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


def sheet_of_fits(pictures: Sequence[Path]) -> bytes:
    """Give the first fits, one below the other, as JPEG."""
    from PIL import Image

    shown = []
    for path in pictures[:_MAX_FITS]:
        with Image.open(path) as image:
            shown.append(image.convert("RGB").resize((_WIDTH, round(_WIDTH * image.height / image.width))))
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
    pictures = [path for name in options.models for path in sorted((options.results / "fits" / name).rglob("fit.png"))]
    write_bytes(options.fits, sheet_of_fits(pictures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
