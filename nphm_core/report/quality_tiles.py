"""The tiles of one scan's quality pictures, drawn once: for the picture in its folder, its card and its page.

Five pictures (scan, linear fit, registration, error, landmarks) from the front and from the subject's left, and the
error from the right as well. The card and the sheet for the gallery are WebP: small, and read by every browser.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from PIL import Image

from nphm_core.geometry.mesh import Mesh
from nphm_core.report.head_views import (
    FOLD_RED,
    HeadSurface,
    Tile,
    error_picture,
    grid_picture,
    head_cameras,
    moved_mesh,
    overlay_picture,
    right_camera,
    scan_picture,
)
from nphm_core.report.sheet import Colour, with_marks
from nphm_core.spaces import Similarity

TRUSTED: Colour = (20, 110, 200)
WEAK: Colour = (240, 140, 20)

CARD_BYTES = 25_000
"""A card is never larger: thousands of them lie in one gallery."""
SHEET_COLUMNS = 4
SHEET_TILES = (
    "scan, front", "scan, left", "fit, front", "fit, left", "registration, front", "registration, left",
    "landmarks, front", "landmarks, left", "error, front", "error, left", "error, right",
)  # fmt: skip
"""What lies in the sheet, row by row."""

_CARD_TILE = (132, 165)
_CARD_COLUMNS = 4
_CARD_QUALITIES = (80, 70, 60, 50, 40, 30, 20, 10)
_SHEET_QUALITY = 82
# What lies this far behind the surface is not drawn in that view.
_HIDDEN_MM = 6.0

Picture = UInt8[ndarray, "height width 3"]


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


@dataclass(frozen=True)
class RegistrationTiles:
    """Pictures of one registered scan, all of one size."""

    front: Sequence[ndarray]
    """Scan, linear fit over the scan, registration, error, landmarks."""
    left: Sequence[ndarray]
    """The same from the subject's left."""
    error_right: ndarray
    is_coloured: bool
    """The scan is shown in its own colours."""
    is_cloud: bool


def registration_tiles(
    view: RegistrationView, T_head_metric: Similarity, *, tile_px: int, colour_max_mm: float
) -> RegistrationTiles:
    """Draw the tiles of a registered scan, `tile_px` high."""
    view = _in_head_frame(view, T_head_metric)
    surfaces = [HeadSurface(mesh) for mesh in (view.scan, view.linear_fit, view.registered)]
    framed = (view.registered.vertices[view.face], view.registered.vertices, tile_px)
    front, left = (
        [
            scan_picture(scan),
            overlay_picture(scan, fit),
            _registration_picture(view, registered),
            error_picture(registered, view.distance, view.is_measured, colour_max_mm),
            _landmark_picture(view, scan),
        ]
        for scan, fit, registered in (
            tuple(surface.seen_by(camera) for surface in surfaces) for camera in head_cameras(*framed)
        )
    )
    right = surfaces[2].seen_by(right_camera(*framed))
    error_right = error_picture(right, view.distance, view.is_measured, colour_max_mm)
    return RegistrationTiles(front, left, error_right, surfaces[0].is_coloured, not view.scan.n_faces)


def card_of(tiles: RegistrationTiles) -> bytes:
    """Give the card: scan, fit, registration, landmarks; below them the error from three sides and a free place."""
    scan, fit, registration, error, landmarks = tiles.front
    shown = [scan, fit, registration, landmarks, error, tiles.left[3], tiles.error_right]
    small = [Image.fromarray(picture).resize(_CARD_TILE, Image.Resampling.BOX) for picture in shown]
    return _bounded_webp(_grid(small, _CARD_COLUMNS))


def card_of_picture(picture: Picture) -> bytes:
    """Give the card's WebP of a scan that failed: whatever picture there is."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    side = 2 * _CARD_TILE[1]
    image.thumbnail((side, side), Image.Resampling.BOX)
    return _bounded_webp(image)


def sheet_of(tiles: RegistrationTiles) -> bytes:
    """Give the WebP of all tiles at full size, as `SHEET_TILES` says."""
    pairs = [picture for k in (0, 1, 2, 4, 3) for picture in (tiles.front[k], tiles.left[k])]
    return _webp(
        _grid([Image.fromarray(picture) for picture in (*pairs, tiles.error_right)], SHEET_COLUMNS), _SHEET_QUALITY
    )


def _grid(pictures: Sequence[Image.Image], n_columns: int) -> Image.Image:
    width, height = pictures[0].size
    sheet = Image.new("RGB", (n_columns * width, -(-len(pictures) // n_columns) * height), "white")
    for k, picture in enumerate(pictures):
        sheet.paste(picture, (k % n_columns * width, k // n_columns * height))
    return sheet


def _bounded_webp(image: Image.Image) -> bytes:
    for quality in _CARD_QUALITIES:
        data = _webp(image, quality)
        if len(data) <= CARD_BYTES:
            break
    return data


def _webp(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=quality, method=4)
    return stream.getvalue()


def _in_head_frame(view: RegistrationView, T_head_metric: Similarity) -> RegistrationView:
    return replace(
        view,
        scan=moved_mesh(view.scan, T_head_metric),
        linear_fit=moved_mesh(view.linear_fit, T_head_metric),
        registered=moved_mesh(view.registered, T_head_metric),
        landmarks=T_head_metric.apply(view.landmarks),
        landmarks_registered=T_head_metric.apply(view.landmarks_registered),
    )


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
