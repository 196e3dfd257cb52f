"""Which vertices of a head can be seen from outside: rays to a sphere of directions around it."""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.geometry.mesh import vertex_normals
from nphm_core.geometry.rays import RayCaster


def sphere_directions(n: int) -> Float[ndarray, "n 3"]:
    """Give unit directions spread evenly over the sphere (Fibonacci's spiral)."""
    k = np.arange(n) + 0.5
    y = 1 - 2 * k / n
    angle = np.pi * (1 + 5**0.5) * k
    radius = np.sqrt(1 - y**2)
    return np.stack([radius * np.cos(angle), y, radius * np.sin(angle)], axis=1)


def open_share(
    vertices: Float[ndarray, "n_vertices 3"],
    faces: Int[ndarray, "n_faces 3"],
    *,
    n_directions: int = 200,
    min_cosine: float = 0.1,
) -> Float[ndarray, " n_vertices"]:
    """Give for each vertex the share of directions above its surface along which nothing is in the way, in [0, 1]."""
    normals = vertex_normals(vertices, faces)
    directions = sphere_directions(n_directions)
    caster = RayCaster(vertices, faces)
    step = 2e-4 * float(np.ptp(vertices, axis=0).max())
    above = normals @ directions.T > min_cosine
    free = np.zeros(above.shape, bool)
    for k, direction in enumerate(directions):
        asked = np.flatnonzero(above[:, k])
        origins = vertices[asked] + step * normals[asked]
        free[asked, k] = ~caster.cast(origins, np.broadcast_to(direction, origins.shape)).hit
    return free.sum(axis=1) / np.maximum(above.sum(axis=1), 1)
