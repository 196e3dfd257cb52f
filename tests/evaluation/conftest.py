"""A ball as a head: every distance on it is known."""

import numpy as np
import pytest

from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.subdivision import loop_subdivision

RADIUS_MM = 80.0


def make_ball(radius: float, n_levels: int) -> Mesh:
    """Give a closed sphere, an octahedron subdivided."""
    vertices = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    for _ in range(n_levels):
        step = loop_subdivision(faces, len(vertices), scheme="midpoint")
        vertices, faces = step.matrix @ vertices, step.faces
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    return Mesh(radius * vertices, faces)


@pytest.fixture(scope="session")
def ball() -> Mesh:
    """A sphere of 80 mm, 66 thousand triangles: flat to 2 micrometres."""
    return make_ball(RADIUS_MM, 6)


@pytest.fixture(scope="session")
def coarse_ball() -> Mesh:
    """The same sphere in 2,000 triangles."""
    return make_ball(RADIUS_MM, 4)
