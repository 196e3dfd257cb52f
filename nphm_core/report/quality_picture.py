"""The quality picture of one scan: what was scanned, fitted and registered, and where it is wrong by how much.

Five columns (scan, linear fit, registration, error, landmarks) from the front and from the subject's left. For a scan
that failed before there was a registration, whatever picture there is, with the stage and the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from PIL import Image

from nphm_core.geometry.mesh import Mesh
from nphm_core.registration.cameras import Camera
from nphm_core.report.colour_map import UNSEEN
from nphm_core.report.head_views import (
    CLAY,
    FIT_BLUE,
    FOLD_RED,
    GRID_DEGREES,
    HeadSurface,
    Tile,
    error_picture,
    grid_picture,
    head_cameras,
    overlay_picture,
    scan_picture,
)
from nphm_core.report.sheet import INK, RESIDUAL, SOFT, Colour, Sheet, with_marks
from nphm_core.spaces import Similarity

VERDICT_COLOURS: dict[str, Colour] = {"ok": (46, 125, 74), "suspicious": (190, 120, 10), "failed": (178, 40, 40)}
TRUSTED: Colour = (20, 110, 200)
WEAK: Colour = (240, 140, 20)

TRUSTED_WEIGHT = 0.3
"""Landmarks with less weight are drawn as weak."""

_MARGIN = 18
_GAP = 10
_HEADER = 92
_LEGEND = 64
_SMALL = 14
_MAX_ENLARGED = 3.0
# What lies this far behind the surface is not drawn in that view.
_HIDDEN_MM = 6.0


@dataclass(frozen=True)
class Heading:
    """What stands above the tiles."""

    scan_id: str
    verdict: str
    reasons: Sequence[str]
    numbers: str
    """The headline measures in one line."""
    stage: str = ""


@dataclass(frozen=True)
class RegistrationView:
    """Everything that is drawn of a registered scan; positions in mm, in metric space."""

    scan: Mesh
    linear_fit: Mesh
    registered: Mesh
    rest: Float[ndarray, "n_vertices 3"]
    """The template's own shape in the registered mesh's topology, in mm."""
    face: Bool[ndarray, " n_vertices"]
    distance: Float[ndarray, " n_vertices"]
    is_measured: Bool[ndarray, " n_vertices"]
    is_folded: Bool[ndarray, " n_faces"]
    landmarks: Float[ndarray, "n_landmarks 3"]
    landmarks_registered: Float[ndarray, "n_landmarks 3"]
    """Where the registered mesh has them; NaN where it has none."""
    landmark_trusted: Bool[ndarray, " n_landmarks"]
    """Others weigh little in the linear fit."""


def registration_picture(
    view: RegistrationView, T_head_metric: Similarity, heading: Heading, *, tile_px: int, colour_max_mm: float
) -> Image.Image:
    """Draw the picture of a registered scan; tiles are `tile_px` high."""
    view = _in_head_frame(view, T_head_metric)
    surfaces = [HeadSurface(mesh) for mesh in (view.scan, view.linear_fit, view.registered)]
    cameras = head_cameras(view.registered.vertices[view.face], view.registered.vertices, tile_px)
    rows = [_row(view, surfaces, camera, colour_max_mm) for camera in cameras]
    width, height = cameras[0].width, cameras[0].height
    page_width = 2 * _MARGIN + 5 * width + 4 * _GAP
    page = Sheet(page_width, _HEADER + 2 * height + _GAP + _LEGEND + _MARGIN + 26)
    _write_heading(page, heading, page_width)
    scan_name = "scan" if view.scan.n_faces else "scan (point cloud)"
    captions = (scan_name, "linear fit over the scan", "registration", "distance to the scan", "landmarks")
    for k, caption in enumerate(captions):
        x = _MARGIN + k * (width + _GAP)
        page.text(x, _HEADER, caption, 16)
        for r, row in enumerate(rows):
            y = _HEADER + 26 + r * (height + _GAP)
            page.paste(row[k], x, y)
            page.frame(x, y, width, height)
    _write_legends(page, _HEADER + 26 + 2 * height + 2 * _GAP, width, colour_max_mm, surfaces[0].is_coloured)
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


def _in_head_frame(view: RegistrationView, T_head_metric: Similarity) -> RegistrationView:
    def moved(mesh: Mesh) -> Mesh:
        # Delivered normals matter for clouds only.
        normals = None if mesh.normals is None else T_head_metric.apply_directions(mesh.normals)
        return replace(mesh, vertices=T_head_metric.apply(mesh.vertices), normals=normals)

    return replace(
        view,
        scan=moved(view.scan),
        linear_fit=moved(view.linear_fit),
        registered=moved(view.registered),
        landmarks=T_head_metric.apply(view.landmarks),
        landmarks_registered=T_head_metric.apply(view.landmarks_registered),
    )


def _row(view: RegistrationView, surfaces: Sequence[HeadSurface], camera: Camera, largest_mm: float) -> list[ndarray]:
    scan, fit, registered = (surface.seen_by(camera) for surface in surfaces)
    return [
        scan_picture(scan),
        overlay_picture(scan, fit),
        _registration_picture(view, registered),
        error_picture(registered, view.distance, view.is_measured, largest_mm),
        _landmark_picture(view, scan),
    ]


def _registration_picture(view: RegistrationView, registered: Tile) -> ndarray:
    picture = grid_picture(registered, view.rest, view.is_folded)
    # Most folded triangles are smaller than a pixel.
    middles = view.registered.vertices[view.registered.faces[view.is_folded]].mean(axis=1)
    at = registered.view.camera.project(middles)[registered.shows(middles, _HIDDEN_MM)]
    return with_marks(picture, at, at, np.broadcast_to(np.round(255 * FOLD_RED).astype(np.uint8), (len(at), 3)))


def _landmark_picture(view: RegistrationView, scan: Tile) -> ndarray:
    camera = scan.view.camera
    pale = np.round(0.45 * scan_picture(scan) + 0.55 * 255).astype(np.uint8)
    at = camera.project(view.landmarks)
    visible = scan.shows(view.landmarks, _HIDDEN_MM)
    ends = camera.project(view.landmarks_registered)
    ends = np.where(np.isfinite(ends), ends, at)
    colours = np.where(view.landmark_trusted[:, None], TRUSTED, WEAK).astype(np.uint8)
    return with_marks(pale, at[visible], ends[visible], colours[visible], radius=1.6)


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
