"""The picture of one fit: the scan, the fitted head over it, the fitted head, and its distance to the scan in mm."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image

from nphm_core.geometry.mesh import Mesh
from nphm_core.registration.cameras import Camera
from nphm_core.report.colour_map import UNSEEN
from nphm_core.report.head_views import (
    CLAY,
    FIT_BLUE,
    HeadSurface,
    error_picture,
    head_cameras,
    moved_mesh,
    overlay_picture,
    scan_picture,
)
from nphm_core.report.sheet import INK, SOFT, Colour, Sheet
from nphm_core.spaces import Similarity

_MARGIN, _GAP, _HEADER, _LEGEND, _SMALL = 18, 10, 84, 56, 14
_CAPTIONS = ("scan", "fit over the scan", "fit", "distance to the scan")


@dataclass(frozen=True)
class FitView:
    """Everything that is drawn of a fitted scan; positions in mm, in metric space."""

    scan: Mesh
    fitted: Mesh
    face: Float[ndarray, "n 3"]
    """Points of the fitted face, by which the cameras are set up."""
    distance_mm: Float[ndarray, " n_vertices"]
    """From each vertex of the fitted mesh to the scan."""
    is_measured: Bool[ndarray, " n_vertices"]
    """Vertices that the scan shows."""


def fit_picture(
    view: FitView, T_head_metric: Similarity, title: str, lines: Sequence[str], *, tile_px: int, colour_max_mm: float
) -> Image.Image:
    """Draw it from the front and from the subject's left; tiles are `tile_px` high."""
    scan, fitted = (moved_mesh(mesh, T_head_metric) for mesh in (view.scan, view.fitted))
    surfaces = HeadSurface(scan), HeadSurface(fitted)
    cameras = head_cameras(T_head_metric.apply(view.face), fitted.vertices, tile_px)
    width, height = cameras[0].width, cameras[0].height
    page_width = 2 * _MARGIN + len(_CAPTIONS) * width + (len(_CAPTIONS) - 1) * _GAP
    page = Sheet(page_width, _HEADER + 26 + 2 * (height + _GAP) + _LEGEND + _MARGIN)
    page.text(_MARGIN, 14, title, 26)
    for k, line in enumerate(lines[:2]):
        page.paragraph(_MARGIN, 46 + 19 * k, line, 15, page_width - 2 * _MARGIN, max_lines=1, colour=SOFT if k else INK)
    for k, caption in enumerate(_CAPTIONS):
        page.text(_MARGIN + k * (width + _GAP), _HEADER, caption, 16)
    for r, camera in enumerate(cameras):
        y = _HEADER + 26 + r * (height + _GAP)
        for k, tile in enumerate(_tiles(view, *surfaces, camera, colour_max_mm)):
            x = _MARGIN + k * (width + _GAP)
            page.paste(tile, x, y)
            page.frame(x, y, width, height)
    _write_legends(page, _HEADER + 26 + 2 * (height + _GAP), width, colour_max_mm)
    return page.image


def _tiles(
    view: FitView, scan: HeadSurface, fitted: HeadSurface, camera: Camera, largest_mm: float
) -> tuple[ndarray, ...]:
    seen, fit = scan.seen_by(camera), fitted.seen_by(camera)
    return (
        scan_picture(seen),
        overlay_picture(seen, fit),
        fit.painted(CLAY * fit.light[:, None]),
        error_picture(fit, view.distance_mm, view.is_measured, largest_mm),
    )


def _write_legends(page: Sheet, y: int, width: int, largest_mm: float) -> None:
    left = [_MARGIN + k * (width + _GAP) for k in range(len(_CAPTIONS))]
    page.text(left[0], y, "above: front, below: subject's left", _SMALL, SOFT)
    for k, (colour, text) in enumerate(((CLAY, "the scan lies in front"), (FIT_BLUE, "the fit lies in front"))):
        page.text(page.swatch(left[1], y + 20 * k + 2, 11, _rgb(colour)), y + 20 * k, text, _SMALL, SOFT)
    page.colour_bar(left[3], y + 2, max(40, width - 90), 12, largest_mm, _SMALL)
    page.text(page.swatch(left[3], y + 40, 11, _rgb(UNSEEN / 255)), y + 38, "not seen by the scan", _SMALL, SOFT)


def _rgb(colour: Float[ndarray, " 3"]) -> Colour:
    red, green, blue = (round(255 * float(c)) for c in colour)
    return red, green, blue
