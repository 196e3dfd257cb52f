"""The quality picture of one scan: what was scanned, fitted and registered, and where it is wrong by how much.

Five columns (scan, linear fit, registration, error, landmarks) from the front and from the subject's left. For a scan
that failed before there was a registration, whatever picture there is, with the stage and the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from nphm_core.report.colour_map import UNSEEN
from nphm_core.report.head_views import CLAY, FIT_BLUE, FOLD_RED, GRID_DEGREES
from nphm_core.report.quality_tiles import TRUSTED, WEAK, RegistrationTiles
from nphm_core.report.sheet import INK, RESIDUAL, SOFT, Colour, Sheet

VERDICT_COLOURS: dict[str, Colour] = {"ok": (46, 125, 74), "suspicious": (190, 120, 10), "failed": (178, 40, 40)}
TRUSTED_WEIGHT = 0.3
"""Landmarks with less weight are drawn as weak."""

_MARGIN = 18
_GAP = 10
_HEADER = 92
_LEGEND = 64
_SMALL = 14
_MAX_ENLARGED = 3.0


@dataclass(frozen=True)
class Heading:
    """What stands above the tiles."""

    scan_id: str
    verdict: str
    reasons: Sequence[str]
    numbers: str
    """The headline measures in one line."""
    stage: str = ""


def registration_picture(tiles: RegistrationTiles, heading: Heading, *, colour_max_mm: float) -> Image.Image:
    """Draw the picture of a registered scan from its tiles."""
    height, width = tiles.front[0].shape[:2]
    page_width = 2 * _MARGIN + 5 * width + 4 * _GAP
    page = Sheet(page_width, _HEADER + 2 * height + _GAP + _LEGEND + _MARGIN + 26)
    _write_heading(page, heading, page_width)
    scan_name = "scan (point cloud)" if tiles.is_cloud else "scan"
    captions = (scan_name, "linear fit over the scan", "registration", "distance to the scan", "landmarks")
    for k, caption in enumerate(captions):
        x = _MARGIN + k * (width + _GAP)
        page.text(x, _HEADER, caption, 16)
        for r, row in enumerate((tiles.front, tiles.left)):
            y = _HEADER + 26 + r * (height + _GAP)
            page.paste(row[k], x, y)
            page.frame(x, y, width, height)
    _write_legends(page, _HEADER + 26 + 2 * height + 2 * _GAP, width, colour_max_mm, tiles.is_coloured)
    return page.image


def failure_picture(
    heading: Heading, pictures: Sequence[UInt8[ndarray, "_height _width 3"]], *, tile_px: int
) -> Image.Image:
    """Draw what there is of a scan that failed: pictures if any, the stage and the reason."""
    side = round(1.5 * tile_px)
    text_width = max(560, side)
    page_width = 2 * _MARGIN + (len(pictures) * (side + _GAP)) + text_width
    page = Sheet(page_width, _HEADER + side + 2 * _MARGIN)
    _write_heading(page, replace(heading, reasons=()), page_width)
    x = _MARGIN
    for picture in pictures:
        shown = _fitted(Image.fromarray(np.ascontiguousarray(picture)), side - 2)
        page.image.paste(shown, (x + (side - shown.width) // 2, _HEADER + (side - shown.height) // 2))
        page.frame(x, _HEADER, side, side)
        x += side + _GAP
    y = page.paragraph(x + 8, _HEADER + 4, f"stage: {heading.stage}", 20, text_width - 16) + 8
    if not pictures:
        y = page.paragraph(x + 8, y, "no picture: it failed before one could be made", 16, text_width, colour=SOFT) + 8
    for reason in heading.reasons:
        left = max(2, int((_HEADER + side - y) / 22))
        y = page.paragraph(x + 8, y, reason, 16, text_width - 16, max_lines=left) + 8
    return page.image


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    factor = min(side / picture.width, side / picture.height, _MAX_ENLARGED)
    size = (max(1, round(factor * picture.width)), max(1, round(factor * picture.height)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _write_heading(page: Sheet, heading: Heading, page_width: int) -> None:
    x = page.text(_MARGIN, 14, heading.scan_id, 26) + 16
    x = page.badge(x, 18, heading.verdict, 18, VERDICT_COLOURS[heading.verdict]) + 20
    page.text(x, 20, heading.numbers, 17, INK)
    shown = list(heading.reasons[:1])
    if len(heading.reasons) > 1:
        shown = [f"{heading.reasons[0]}  (and {len(heading.reasons) - 1} more, in metrics.json)"]
    for reason in shown:
        page.paragraph(_MARGIN, 54, reason.replace("\n", " "), 15, page_width - 2 * _MARGIN, max_lines=1, colour=SOFT)


def _write_legends(page: Sheet, y: int, width: int, colour_max_mm: float, is_coloured: bool) -> None:
    left = [_MARGIN + k * (width + _GAP) for k in range(5)]
    page.text(left[0], y, "in its own colours" if is_coloured else "without colour: shaded", _SMALL, SOFT)
    page.text(left[0], y + 20, "above: front, below: subject's left", _SMALL, SOFT)
    for k, (colour, text) in enumerate(((CLAY, "the scan lies in front"), (FIT_BLUE, "the fit lies in front"))):
        x = page.swatch(left[1], y + 20 * k + 2, 11, _rgb(colour))
        page.text(x, y + 20 * k, text, _SMALL, SOFT)
    page.text(left[2], y, f"template's lines every {GRID_DEGREES:g}°", _SMALL, SOFT)
    page.text(page.swatch(left[2], y + 22, 11, _rgb(FOLD_RED)), y + 20, "folded triangles", _SMALL, SOFT)
    page.colour_bar(left[3], y + 2, width - 90, 12, colour_max_mm, _SMALL)
    x = page.swatch(left[3], y + 42, 11, _rgb(UNSEEN / 255))
    page.text(x, y + 40, "unseen: follows the prior", _SMALL, SOFT)
    meanings = ((TRUSTED, "found in the scan"), (WEAK, "found, of little weight"), (RESIDUAL, "to the registration's"))
    for k, (dot, text) in enumerate(meanings):
        page.text(page.swatch(left[4], y + 20 * k + 2, 11, dot), y + 20 * k, text, _SMALL, SOFT)


def _rgb(colour: Float[ndarray, " 3"]) -> Colour:
    red, green, blue = (round(255 * float(c)) for c in colour)
    return red, green, blue
