"""Tiles of a quality picture: one head seen by one camera, drawn by casting rays.

All positions are in the upright head frame in mm: +y up, +z out of the face, +x to the subject's left. A tile is an
sRGB picture; whatever is not head is white.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.rays import RayCaster
from nphm_core.registration.cameras import Camera, look_at
from nphm_core.registration.drawable import drawable_of, light_of
from nphm_core.registration.render_backends import SurfaceView, see
from nphm_core.report.colour_map import UNSEEN, colours_of
from nphm_core.spaces import Similarity

CLAY = np.array([0.86, 0.83, 0.79])
FIT_BLUE = np.array([0.36, 0.58, 0.86])
FOLD_RED = np.array([0.86, 0.10, 0.10])
LINE_BLUE = np.array([0.10, 0.18, 0.36])
GRID_DEGREES = 7.5
"""Step of the lines of longitude and latitude."""

_FOV_RAD = np.radians(16.0)
_SIDE_YAW_RAD = np.radians(52.0)
_FRAME = 1.36
"""Height of a tile in heights from the chin to the crown: hair stands above, the neck below."""
_ASPECT = 0.8
_SIDE_MARGIN = 0.1
_HATCH_PX = 6


@dataclass(frozen=True)
class Tile:
    """What one camera sees of one surface."""

    view: SurfaceView
    corner: ndarray
    """(n_seen 3) vertices of the face that each pixel sees."""
    depth: Float[ndarray, " n_seen"]
    light: Float[ndarray, " n_seen"]

    def interpolated(self, values: ndarray) -> ndarray:
        """Interpolate values at the vertices to the pixels."""
        bary = self.view.barycentric.reshape(-1, 3, *[1] * (values.ndim - 1))
        return (values[self.corner] * bary).sum(1)

    def shows(self, points: Float[ndarray, "n 3"], slack_mm: float) -> Bool[ndarray, " n"]:
        """Mark points that are not hidden by more than some surface."""
        camera = self.view.camera
        depth = np.full(camera.height * camera.width, np.inf)
        depth[self.view.pixel] = self.depth
        at = np.clip(camera.project(points).astype(int), 0, [camera.width - 1, camera.height - 1])
        shown: ndarray = camera.depth(points) < depth[at[:, 1] * camera.width + at[:, 0]] + slack_mm
        return shown

    def painted(self, colour: Float[ndarray, "n_seen 3"]) -> UInt8[ndarray, "height width 3"]:
        """Give the picture with these colours, in [0, 1]."""
        camera = self.view.camera
        image = np.full((camera.height * camera.width, 3), 255, np.uint8)
        image[self.view.pixel] = np.clip(np.round(colour * 255), 0, 255)
        return image.reshape(camera.height, camera.width, 3)


class HeadSurface:
    """A surface that tiles are made of, prepared once for all cameras."""

    def __init__(self, mesh: Mesh) -> None:
        self._drawable = drawable_of(mesh)
        self._caster = RayCaster(self._drawable.vertices, self._drawable.faces)
        self.is_coloured = self._drawable.is_coloured

    def seen_by(self, camera: Camera) -> Tile:
        """Cast a ray through every pixel."""
        view = see(self._drawable, self._caster, camera)
        corner = self._drawable.faces[view.face]
        points = np.einsum("nk,nkd->nd", view.barycentric, self._drawable.vertices[corner])
        light = light_of(view.normals, flat=self.is_coloured)
        return Tile(view, corner, camera.depth(points), light)


def head_cameras(
    face_points: Float[ndarray, "n 3"], head_points: Float[ndarray, "m 3"], height_px: int
) -> tuple[Camera, Camera]:
    """Give the frontal camera and the one at the subject's left, which show a head from below the chin to the crown."""
    front = np.array([0.5 * (face_points[:, 0].min() + face_points[:, 0].max()), 0.0, 0.0])
    return (
        _head_camera(face_points, head_points, height_px, front, 0.0),
        _side_camera(face_points, head_points, height_px, 1.0),
    )


def right_camera(face_points: Float[ndarray, "n 3"], head_points: Float[ndarray, "m 3"], height_px: int) -> Camera:
    """Give the camera at the subject's right, the mirror image of the one at the left."""
    return _side_camera(face_points, head_points, height_px, -1.0)


def _side_camera(face_points: ndarray, head_points: ndarray, height_px: int, side: float) -> Camera:
    right = np.array([np.cos(_SIDE_YAW_RAD), 0.0, -side * np.sin(_SIDE_YAW_RAD)])
    # From the side the face looks at the picture's edge, and the back of the head fills the rest.
    width = _ASPECT * _frame_height(face_points, head_points)
    along = side * float((side * face_points @ right).min()) + side * (0.5 - _SIDE_MARGIN) * width
    return _head_camera(face_points, head_points, height_px, along * right, side * _SIDE_YAW_RAD)


def _frame_height(face_points: ndarray, head_points: ndarray) -> float:
    return _FRAME * float(head_points[:, 1].max() - face_points[:, 1].min())


def _head_camera(face_points: ndarray, head_points: ndarray, height_px: int, target: ndarray, yaw_rad: float) -> Camera:
    middle = 0.5 * (face_points[:, 1].min() + head_points[:, 1].max())
    distance = _frame_height(face_points, head_points) / 2 / np.tan(_FOV_RAD / 2)
    focal_px = height_px / 2 / np.tan(_FOV_RAD / 2)
    back, up = np.array([np.sin(yaw_rad), 0.0, np.cos(yaw_rad)]), np.array([0.0, 1.0, 0.0])
    return look_at(target + middle * up, back, up, distance, focal_px, round(_ASPECT * height_px), height_px)


def moved_mesh(mesh: Mesh, T_head_metric: Similarity) -> Mesh:
    """Give a mesh in the head's frame; delivered normals, which matter for clouds only, turn with it."""
    normals = None if mesh.normals is None else T_head_metric.apply_directions(mesh.normals)
    return replace(mesh, vertices=T_head_metric.apply(mesh.vertices), normals=normals)


def scan_picture(tile: Tile) -> UInt8[ndarray, "height width 3"]:
    """Draw the scan in its own colour, or shaded."""
    return tile.painted(tile.view.albedo * tile.light[:, None])


def overlay_picture(scan: Tile, fit: Tile) -> UInt8[ndarray, "height width 3"]:
    """Draw two surfaces together: whichever is nearer shows, the scan in clay and the fit in blue."""
    n = scan.view.camera.width * scan.view.camera.height
    depth = np.full((2, n), np.inf)
    depth[0, scan.view.pixel], depth[1, fit.view.pixel] = scan.depth, fit.depth
    shade = np.zeros((2, n))
    for k, tile in enumerate((scan, fit)):
        shade[k, tile.view.pixel] = light_of(tile.view.normals, flat=False)
    image = np.ones((n, 3))
    first = depth[0] <= depth[1]
    for k, (shown, colour) in enumerate(((first, CLAY), (~first, FIT_BLUE))):
        seen = shown & np.isfinite(depth[k])
        image[seen] = shade[k, seen, None] * colour
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8).reshape(fit.view.camera.height, -1, 3)


def grid_picture(
    tile: Tile, rest: Float[ndarray, "n_vertices 3"], is_folded: Bool[ndarray, " n_faces"]
) -> UInt8[ndarray, "height width 3"]:
    """Draw a registered mesh with the template's longitudes and latitudes, and folded triangles in red.

    `rest` is the template's own shape, in mm: the lines are drawn on it and carried along, so that they bend where the
    correspondence does.
    """
    colour = CLAY * tile.light[:, None]
    lines = _grid_lines(tile, rest)
    colour[lines] = 0.45 * colour[lines] + 0.55 * LINE_BLUE
    colour[is_folded[tile.view.face]] = FOLD_RED
    return tile.painted(colour)


def _grid_lines(tile: Tile, rest: Float[ndarray, "n_vertices 3"]) -> Bool[ndarray, " n_seen"]:
    centre = 0.5 * (rest.min(0) + rest.max(0))
    offset = tile.interpolated(rest) - centre
    longitude = np.degrees(np.arctan2(offset[:, 0], offset[:, 2]))
    latitude = np.degrees(np.arctan2(offset[:, 1], np.hypot(offset[:, 0], offset[:, 2])))
    camera = tile.view.camera
    out = np.zeros((camera.height, camera.width), bool)
    # A line runs between two pixels in different cells, where the surface between them is one.
    for value in (longitude, latitude):
        cell = np.full(camera.height * camera.width, np.nan)
        cell[tile.view.pixel] = np.floor(value / GRID_DEGREES)
        cell = cell.reshape(camera.height, camera.width)
        for step in (cell[:, 1:] - cell[:, :-1], (cell[1:] - cell[:-1])):
            out[: step.shape[0], : step.shape[1]] |= np.abs(step) == 1
    return out.ravel()[tile.view.pixel]


def error_picture(
    tile: Tile, distance_mm: Float[ndarray, " n_vertices"], is_measured: Bool[ndarray, " n_vertices"], largest_mm: float
) -> UInt8[ndarray, "height width 3"]:
    """Draw a registered mesh in the colours of its distances; hatched grey where nothing was measured."""
    known = is_measured[tile.corner].all(1)
    # A little light keeps the form readable; the colour bar has the unshaded colours.
    shade = 0.72 + 0.28 * np.clip(tile.light, 0, 1)
    colour = np.empty((len(known), 3))
    finite = np.where(is_measured, distance_mm, 0.0)
    colour[known] = colours_of(tile.interpolated(finite)[known], largest_mm) / 255.0
    row, column = np.divmod(tile.view.pixel[~known], tile.view.camera.width)
    hatch = (row + column) % _HATCH_PX == 0
    colour[~known] = UNSEEN / 255.0 * np.where(hatch, 0.86, 1.0)[:, None]
    return tile.painted(colour * shade[:, None])
