"""The scan as the registration stages see it: in mm, with normals, borders and what the template does not model.

Hair is the great outlier: the template is bald. What speaks for hair is the colour (unlike the skin of nose and
cheeks), else the roughness of the surface; a mask file overrides both, and what it masks is cut out of the scan. The
evidence is used only where hair may grow: brows, lips and eyes are not skin-coloured either.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray

from nphm_core.geometry.mesh import Mesh, boundary_vertices, unique_edges, vertex_normals
from nphm_core.registration.cloud_repair import select_points
from nphm_core.registration.mesh_repair import select_faces

# MediaPipe landmarks on bare skin: nose ridge, cheeks, lower forehead.
SKIN_LANDMARKS = (6, 197, 195, 5, 4, 50, 280, 101, 330, 36, 266, 151, 9, 108, 337, 205, 425)
_SKIN_RADIUS_MM = 7.0
_MIN_SKIN_POINTS = 60
# Log lightness, a/L and b/L: differences within one skin, and where likeness ends. Less contrast is no colour.
_MIN_LOOK_STD = (0.22, 0.08, 0.10)
_MAX_LOOK_DISTANCE = 2.3
_MIN_CONTRAST = 15.0
# Roughness: mean angle between neighbours' normals, where hair begins and where it is certain.
_ROUGH_RAD = (0.25, 0.55)
_BEND_NEIGHBOURS = 8
MASKED_BELOW = 0.5
"""Vertices with less in a mask file are ignored altogether; what is above is how far a vertex is bare."""


@dataclass(frozen=True)
class ScanSurface:
    """A scan in metric space, ready for registration."""

    vertices: Float[ndarray, "n 3"]
    faces: Int[ndarray, "m 3"]
    """Empty for a point cloud."""
    normals: Float[ndarray, "n 3"]
    """Unit, outward."""
    border: Bool[ndarray, " n"]
    """Vertices at a hole or at the scan's edge."""
    bare: Float[ndarray, " n"]
    """In [0, 1]: how far the surface is what the template models; 0 for hair."""
    evidence: str
    """What `bare` rests on: `mask`, `colour`, `roughness` or `none`."""


def scan_surface(
    mesh: Mesh,
    mm_per_unit: float,
    landmarks_mm: Float[ndarray, "n_landmarks 3"],
    landmark_index: Int[ndarray, " n_landmarks"],
    *,
    keep_mask: Float[ndarray, " n"] | None = None,
    flip: bool = False,
) -> ScanSurface:
    """Prepare a scan for registration.

    `keep_mask`, one number a vertex, replaces the evidence from colour and shape; what it masks must be gone from the
    mesh already. `flip` turns a scan whose triangles face inwards.
    """
    vertices = mesh.vertices * mm_per_unit
    faces = mesh.faces[:, ::-1] if flip else mesh.faces
    if len(faces):
        normals = vertex_normals(vertices, faces)
    else:
        assert mesh.normals is not None, "ingest gives every cloud normals"
        normals = -mesh.normals if flip else mesh.normals
    border = boundary_vertices(len(vertices), faces) if len(faces) else np.zeros(len(vertices), bool)
    if keep_mask is not None:
        return ScanSurface(vertices, faces, normals, border, keep_mask.astype(float), "mask")
    marks = landmarks_mm[np.isin(landmark_index, SKIN_LANDMARKS)]
    colours = vertex_colours(mesh)
    bare, evidence = None, "none"
    if colours is not None:
        bare, evidence = _skin_likeness(vertices, colours, marks), "colour"
    if bare is None and len(faces):
        bare, evidence = _smoothness(normals, faces), "roughness"
    if bare is None:
        return ScanSurface(vertices, faces, normals, border, np.ones(len(vertices)), "none")
    return ScanSurface(vertices, faces, normals, border, _smooth(bare, faces, 3), evidence)


def unmasked(mesh: Mesh, keep_mask: Float[ndarray, " n"]) -> tuple[Mesh, Float[ndarray, " m"]]:
    """Cut out what a mask file ignores, and give the mask of the vertices left: a mesh keeps all of its vertices."""
    keep = keep_mask >= MASKED_BELOW
    if mesh.n_faces:
        return select_faces(mesh, keep[mesh.faces].all(axis=1)), keep_mask
    return select_points(mesh, keep), keep_mask[keep]


def bend_per_mm(scan: ScanSurface, points: Int[ndarray, " k"]) -> float:
    """Give how much the surface bends around some of its points: median angle to the next points' normals, rad/mm.

    Without points it is 0.
    """
    from scipy.spatial import cKDTree

    if not len(points):
        return 0.0
    used = np.unique(scan.faces) if len(scan.faces) else np.arange(len(scan.vertices))
    distance, near = cKDTree(scan.vertices[used]).query(scan.vertices[points], k=min(_BEND_NEIGHBOURS + 1, len(used)))
    cosine = (scan.normals[used[near]] * scan.normals[points][:, None]).sum(2)
    angle = np.arccos(np.clip(cosine, -1, 1)).sum(1)
    return float(np.median(angle / np.maximum(distance.sum(1), 1e-9)))


def vertex_colours(mesh: Mesh) -> UInt8[ndarray, "n 3"] | None:
    """Give one sRGB colour a vertex, from the file or by looking up the texture; None without either."""
    if mesh.colours is not None:
        return mesh.colours
    if mesh.texture is None:
        return None
    image = mesh.texture.image
    height, width = image.shape[:2]
    uv = mesh.texture.uv.reshape(-1, 2) % 1.0
    column = np.clip((uv[:, 0] * width).astype(int), 0, width - 1)
    row = np.clip(((1 - uv[:, 1]) * height).astype(int), 0, height - 1)
    out = np.full((mesh.n_vertices, 3), 128, np.uint8)
    out[mesh.faces.ravel()] = image[row, column]
    return out


def _skin_likeness(
    vertices: Float[ndarray, "n 3"], colours: UInt8[ndarray, "n 3"], marks: Float[ndarray, "k 3"]
) -> Float[ndarray, " n"] | None:
    """Compare colours with those around the skin landmarks; None where these show no colour to speak of."""
    lab = _lab(colours)
    near = np.zeros(len(vertices), bool)
    for mark in marks:
        near |= ((vertices - mark) ** 2).sum(1) < _SKIN_RADIUS_MM**2
    if near.sum() < _MIN_SKIN_POINTS or np.ptp(lab[:, 0]) + np.ptp(lab[:, 1:], axis=0).max() < _MIN_CONTRAST:
        return None
    # Shade scales all three channels alike: hue is the ratio to lightness, and lightness counts on a log scale.
    light = np.maximum(lab[:, 0], 1.0)
    looks = np.stack([np.log(light), lab[:, 1] / light, lab[:, 2] / light], axis=1)
    centre = np.median(looks[near], axis=0)
    spread = 1.4826 * np.median(np.abs(looks[near] - centre), axis=0)
    distance = np.sqrt((((looks - centre) / np.maximum(2.5 * spread, _MIN_LOOK_STD)) ** 2).sum(1))
    return np.clip(_MAX_LOOK_DISTANCE - distance, 0, 1)


def _smoothness(normals: Float[ndarray, "n 3"], faces: Int[ndarray, "m 3"]) -> Float[ndarray, " n"]:
    edges, _ = unique_edges(faces)
    angle = np.arccos(np.clip((normals[edges[:, 0]] * normals[edges[:, 1]]).sum(1), -1, 1))
    n = len(normals)
    total = np.bincount(edges[:, 0], angle, n) + np.bincount(edges[:, 1], angle, n)
    rough = total / np.maximum(np.bincount(edges.ravel(), minlength=n), 1)
    rough = _smooth(rough, faces, 6)
    low, high = _ROUGH_RAD
    return np.clip((high - rough) / (high - low), 0, 1)


def _smooth(values: Float[ndarray, " n"], faces: Int[ndarray, "m 3"], rounds: int) -> Float[ndarray, " n"]:
    if not len(faces):
        return values
    edges, _ = unique_edges(faces)
    n = len(values)
    count = np.maximum(np.bincount(edges.ravel(), minlength=n), 1)
    for _ in range(rounds):
        total = np.bincount(edges[:, 0], values[edges[:, 1]], n) + np.bincount(edges[:, 1], values[edges[:, 0]], n)
        values = 0.5 * values + 0.5 * total / count
    return values


def _lab(colours: UInt8[ndarray, "n 3"]) -> Float[ndarray, "n 3"]:
    """Convert sRGB to CIE L*a*b* (D65, IEC 61966-2-1)."""
    c = colours / 255.0
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
