"""What a depth camera in front of a head sees: a partial cloud of few points, noisy along all axes.

Views as in the released protocol of NPHM (METHOD 7.1): directions of an even sphere with 0.6 < z < 0.9 and |y| < 0.55
in canonical axes, camera 2.6 units away, looking at the origin; what lies below the throat is cut. Normals are those of
planes through the noisy points of the whole image, as a user of a depth camera would estimate them.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.geometry.rays import RayCaster
from nphm_core.registration.cameras import look_at
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.supervision.samples import Plane
from nphm_core.template.visibility import sphere_directions

_N_DIRECTIONS = 1000
_MIN_FORWARD, _MAX_FORWARD, _MAX_UP = 0.6, 0.9, 0.55
_DISTANCE = 2.6
_PIXELS, _FOCAL_PX = 500, 750.0
_PLANE_POINTS, _PLANE_POINTS_PER_MM = 24, 120
"""Points that a plane is laid through: more, the noisier they are."""


@dataclass(frozen=True)
class SingleView:
    """A partial point cloud in canonical space."""

    points: Float[ndarray, "n 3"]
    normals: Float[ndarray, "n 3"]
    """Unit, towards the camera."""
    direction: Float[ndarray, " 3"]
    """From the origin to the camera."""
    noise_mm: float


def observe(
    vertices: Float[ndarray, "n_vertices 3"],
    faces: Int[ndarray, "n_faces 3"],
    throat: Plane,
    *,
    noise_mm: float,
    n_points: int = 2500,
    rng: np.random.Generator,
) -> SingleView:
    """Look at a head in canonical space from a random frontal direction; all lengths but the noise are canonical.

    With the same generator the view and the pixels do not depend on the noise.
    """
    views = sphere_directions(_N_DIRECTIONS)
    frontal = (views[:, 2] > _MIN_FORWARD) & (views[:, 2] < _MAX_FORWARD) & (np.abs(views[:, 1]) < _MAX_UP)
    direction = views[rng.choice(np.flatnonzero(frontal))]
    camera = look_at(np.zeros(3), direction, np.array([0.0, 1.0, 0.0]), _DISTANCE, _FOCAL_PX, _PIXELS, _PIXELS)
    origins, directions = camera.rays(camera.pixel_centres())
    hits = RayCaster(vertices, faces).cast(origins, directions)
    seen = np.einsum("nk,nkd->nd", hits.barycentric[hits.hit], vertices[faces[hits.face[hits.hit]]])
    seen = seen[throat.keeps(seen)]
    chosen = rng.integers(0, len(seen), n_points)
    noisy = seen + noise_mm / MM_PER_CANONICAL_UNIT * rng.standard_normal(seen.shape)
    normals = _plane_normals(noisy, noisy[chosen], int(_PLANE_POINTS + _PLANE_POINTS_PER_MM * noise_mm))
    towards = ((camera.position - noisy[chosen]) * normals).sum(1, keepdims=True)
    return SingleView(noisy[chosen], np.where(towards < 0, -normals, normals), direction, noise_mm)


def _plane_normals(cloud: Float[ndarray, "m 3"], points: Float[ndarray, "n 3"], k: int) -> Float[ndarray, "n 3"]:
    from scipy.spatial import cKDTree

    near = cloud[cKDTree(cloud).query(points, k=min(k, len(cloud)))[1]]
    offset = near - near.mean(1, keepdims=True)
    return np.linalg.eigh(np.einsum("nka,nkb->nab", offset, offset))[1][:, :, 0]
