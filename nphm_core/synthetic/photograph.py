"""Photographs of a synthetic head as a texture, the way scanners with cameras texture their meshes.

Each triangle takes its colour from the photograph that sees it best, and the photographs lie side by side in one
image. Lengths in mm.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.geometry.mesh import Texture, face_normals
from nphm_core.geometry.rays import RayCaster
from nphm_core.registration.cameras import Camera, look_at

# Azimuth and elevation in degrees, three photographs in a row of the image.
_PHOTOGRAPHS = ((0, 0), (75, 5), (-75, 5), (180, 10), (0, 75), (0, -50))
_PER_ROW = 3
_DISTANCE_MM = 1200.0
_HIDDEN_MM = 2.0
_PENALTY = 3.0


def photograph(
    vertices: Float[ndarray, "n 3"],
    faces: Int[ndarray, "m 3"],
    colour_at: Callable[[Float[ndarray, "k 3"]], ndarray],
    *,
    pixels: int = 480,
) -> Texture:
    """Give a mesh a texture; `colour_at` gives sRGB bytes for points near the surface."""
    caster = RayCaster(vertices, faces)
    normals = face_normals(vertices, faces)[0]
    centres = vertices[faces].mean(1)
    middle = 0.5 * (vertices.min(0) + vertices.max(0))
    radius = float(np.linalg.norm(vertices - middle, axis=1).max())
    n_rows = -(-len(_PHOTOGRAPHS) // _PER_ROW)
    image = np.zeros((n_rows * pixels, _PER_ROW * pixels, 3), np.uint8)
    best, uv = np.full(len(faces), -np.inf), np.zeros((len(faces), 3, 2))
    for i, (azimuth, elevation) in enumerate(np.radians(_PHOTOGRAPHS)):
        back = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
        up = np.array([0.0, 1.0, 0.0])
        camera = look_at(middle, back, up, _DISTANCE_MM, pixels / 2 * _DISTANCE_MM / radius, pixels, pixels)
        row, column = divmod(i, _PER_ROW)
        tile, depth = _take(camera, caster, colour_at)
        image[row * pixels : (row + 1) * pixels, column * pixels : (column + 1) * pixels] = tile
        quality = normals @ back - _PENALTY * _is_hidden(camera, depth, centres)
        place = camera.project(vertices) + np.array([column, row]) * pixels
        taken = quality > best
        best[taken] = quality[taken]
        uv[taken] = (place / [image.shape[1], image.shape[0]])[faces[taken]]
    # Texture coordinates count from the bottom.
    uv[:, :, 1] = 1 - uv[:, :, 1]
    return Texture(uv, image)


def _take(
    camera: Camera, caster: RayCaster, colour_at: Callable[[Float[ndarray, "k 3"]], ndarray]
) -> tuple[ndarray, ndarray]:
    """Give the picture, its background in the mean colour so that edges do not shine, and the depths."""
    origins, directions = camera.rays(camera.pixel_centres())
    hits = caster.cast(origins, directions)
    points = origins[hits.hit] + hits.distance[hits.hit, None] * directions[hits.hit]
    colours = colour_at(points)
    picture = np.zeros((len(hits.face), 3), np.uint8)
    picture[:] = colours.mean(0) if len(colours) else 128
    picture[hits.hit] = colours
    depth = np.full(len(hits.face), np.inf)
    depth[hits.hit] = camera.depth(points)
    return picture.reshape(camera.height, camera.width, 3), depth.reshape(camera.height, camera.width)


def _is_hidden(camera: Camera, depth: ndarray, points: Float[ndarray, "n 3"]) -> ndarray:
    place = camera.project(points)
    column = np.clip(place[:, 0].astype(int), 0, camera.width - 1)
    row = np.clip(place[:, 1].astype(int), 0, camera.height - 1)
    return camera.depth(points) > depth[row, column] + _HIDDEN_MM
