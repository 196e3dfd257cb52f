"""What the renderers draw: triangles with normals and colours, whatever the scan was delivered as.

A point cloud becomes small hexagons that lie in the surface and overlap, so that it renders as a surface. Light comes
from above, with a weak fill from the camera: MediaPipe misses untextured faces under a head light alone, and light from
one side pushes its landmarks by a millimetre to the other. Both sides of a triangle are lit, so that a scan turned
inside out shows as well.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.geometry.mesh import Mesh, Texture, vertex_normals
from nphm_core.registration.cameras import Camera

KEY_LIGHT = np.array([0.0, 0.75, 0.60])
"""Direction to the main light in the camera's frame."""
BACKGROUND = 1.0
GREY = 0.75
"""Albedo of a scan without colour."""
MAX_SPLATS = 400_000
_SPLAT_CORNERS = 6
_SPLAT_RADIUS = 1.6
"""Radius of a splat in median distances between neighbours: they overlap on a curved, uneven cloud."""


@dataclass(frozen=True)
class Drawable:
    """Triangles ready for drawing, in scan space."""

    vertices: Float[ndarray, "n_vertices 3"]
    faces: Int[ndarray, "n_faces 3"]
    normals: Float[ndarray, "n_vertices 3"]
    """Unit; the side does not matter."""
    colours: Float[ndarray, "n_vertices 3"] | None
    """sRGB in [0, 1]; None for grey."""
    texture: Texture | None
    source_point: Int[ndarray, " n_faces"] | None = None
    """Point of the cloud that a triangle was made from; None for a mesh, whose triangles are the scan's own."""

    @property
    def is_coloured(self) -> bool:
        """Say whether there is colour beside shading."""
        return self.texture is not None or self.colours is not None


def drawable_of(mesh: Mesh) -> Drawable:
    """Prepare a scan for drawing; triangles with vertices that are not finite must be gone already."""
    colours = None if mesh.colours is None else _useful_colours(mesh.colours)
    if mesh.n_faces == 0:
        return _splats(mesh.vertices, mesh.normals, colours)
    return Drawable(mesh.vertices, mesh.faces, vertex_normals(mesh.vertices, mesh.faces), colours, mesh.texture)


def _useful_colours(colours: ndarray) -> ndarray | None:
    """Give colours in [0, 1], None if all points have the same one: then they tell nothing."""
    return None if (colours == colours[:1]).all() else colours / 255.0


def _splats(points: ndarray, normals: ndarray | None, colours: ndarray | None) -> Drawable:
    """Turn a cloud into hexagons in its tangent planes."""
    from scipy.spatial import cKDTree

    step = -(-len(points) // MAX_SPLATS)
    kept = np.arange(0, len(points), step)
    centres = points[kept]
    tree = cKDTree(centres)
    distance, neighbours = tree.query(centres, k=min(13, len(centres)))
    n = _fitted_normals(centres[neighbours]) if normals is None else normals[kept]
    # Double points have distance zero: the fourth neighbour is a better measure of the spacing than the first.
    radius = _SPLAT_RADIUS * float(np.median(distance[:, min(4, distance.shape[1] - 1)])) / np.sqrt(2)
    tangent = np.cross(n, np.where(np.abs(n[:, :1]) < 0.7, [[1.0, 0, 0]], [[0, 1.0, 0]]))
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-30)
    other = np.cross(n, tangent)
    angle = np.arange(_SPLAT_CORNERS) * 2 * np.pi / _SPLAT_CORNERS
    offsets = np.cos(angle)[:, None] * tangent[:, None] + np.sin(angle)[:, None] * other[:, None]
    vertices = (centres[:, None] + radius * offsets).reshape(-1, 3)
    fan = np.array([[0, k, k + 1] for k in range(1, _SPLAT_CORNERS - 1)])
    faces = (np.arange(len(centres))[:, None, None] * _SPLAT_CORNERS + fan).reshape(-1, 3)
    return Drawable(
        vertices,
        faces,
        np.repeat(n, _SPLAT_CORNERS, axis=0),
        None if colours is None else np.repeat(colours[kept], _SPLAT_CORNERS, axis=0),
        None,
        np.repeat(kept, len(fan)),
    )


def _fitted_normals(patches: Float[ndarray, "n k 3"]) -> Float[ndarray, "n 3"]:
    """Give the normals of planes through patches of neighbours; their side is arbitrary."""
    offset = patches - patches.mean(axis=1, keepdims=True)
    return np.linalg.eigh(np.einsum("nki,nkj->nij", offset, offset))[1][:, :, 0]


def light_of(normals_camera: Float[ndarray, "n 3"], *, flat: bool, roll_rad: float = 0.0) -> Float[ndarray, " n"]:
    """Give the light on points whose normals, in the camera's frame, face the camera.

    `flat` softens it, for scans that bring their own colour. `roll_rad` turns the main light about the line of sight,
    counter-clockwise in the picture.
    """
    c, s = np.cos(roll_rad), np.sin(roll_rad)
    key = np.array([c * KEY_LIGHT[0] - s * KEY_LIGHT[1], s * KEY_LIGHT[0] + c * KEY_LIGHT[1], KEY_LIGHT[2]])
    key = key / np.linalg.norm(key)
    lit = np.clip(normals_camera @ key, 0, None)
    fill = np.clip(normals_camera[:, 2], 0, None)
    return 0.55 + 0.30 * lit + 0.15 * fill if flat else 0.12 + 0.70 * lit + 0.18 * fill


def vertex_light(drawable: Drawable, camera: Camera) -> Float[ndarray, " n_vertices"]:
    """Give the light on every vertex; a normal that faces away is turned to the camera."""
    towards = np.einsum("ij,ij->i", drawable.normals, camera.position - drawable.vertices)
    normals = (drawable.normals @ camera.axes.T) * np.where(towards < 0, -1.0, 1.0)[:, None]
    return light_of(normals, flat=drawable.is_coloured)


def texture_at(texture: Texture, face: Int[ndarray, " n"], barycentric: Float[ndarray, "n 3"]) -> ndarray:
    """Give the texture's colour in [0, 1] at points of the surface, interpolated; the image repeats."""
    uv = np.einsum("nk,nkc->nc", barycentric, texture.uv[face])
    height, width = texture.image.shape[:2]
    x = uv[:, 0] * width - 0.5
    y = (1 - uv[:, 1]) * height - 0.5
    x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    image = texture.image
    top = image[y0 % height, x0 % width] * (1 - fx) + image[y0 % height, (x0 + 1) % width] * fx
    bottom = image[(y0 + 1) % height, x0 % width] * (1 - fx) + image[(y0 + 1) % height, (x0 + 1) % width] * fx
    return (top * (1 - fy) + bottom * fy) / 255.0


def with_texture_for(drawable: Drawable, scan_units_per_pixel: float) -> Drawable:
    """Shrink the texture so that a texel is about a pixel: finer ones only alias.

    Both renderers then look up the same texture, one texel a pixel, and need no mip maps.
    """
    texture = drawable.texture
    if texture is None:
        return drawable
    a, b, c = (drawable.vertices[drawable.faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    e, f = texture.uv[:, 1] - texture.uv[:, 0], texture.uv[:, 2] - texture.uv[:, 0]
    height, width = texture.image.shape[:2]
    texels = np.abs(e[:, 0] * f[:, 1] - e[:, 1] * f[:, 0]) * width * height
    texel = np.sqrt(area.sum() / max(float(texels.sum()), 1e-12))
    factor = min(max(int(scan_units_per_pixel / max(texel, 1e-30)), -(-max(height, width) // 4096), 1), 64)
    if factor == 1:
        return drawable
    return replace(drawable, texture=replace(texture, image=_box_filtered(texture.image, factor)))


def _box_filtered(image: ndarray, factor: int) -> ndarray:
    """Give a smaller picture by averaging."""
    from PIL import Image

    height, width = image.shape[:2]
    size = (max(1, width // factor), max(1, height // factor))
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BOX))
