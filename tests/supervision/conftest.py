"""A sphere as a scan: its signed distance is known everywhere."""

import numpy as np
import pytest

from nphm_core.geometry.subdivision import subdivided_faces, subdivision_hierarchy

RADIUS_MM = 100.0


def make_sphere(levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Subdivide an octahedron, with vertices on the sphere, triangles outward."""
    vertices = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    steps = subdivision_hierarchy(faces, 6, levels, scheme="midpoint")
    for step in steps:
        vertices = step.matrix @ vertices
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    return RADIUS_MM * vertices, subdivided_faces(steps, faces)[0]


@pytest.fixture(scope="session")
def sphere() -> tuple[np.ndarray, np.ndarray]:
    """A sphere of 100 mm around the origin; 32,768 triangles, up to 0.06 mm inside the true sphere."""
    return make_sphere(6)
