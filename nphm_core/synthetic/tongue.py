"""A tongue for models without one: without it an open mouth is a tunnel, in which a sensor sees next to nothing.

An ellipsoid that follows the lower lip and turns with the jaw; hidden while the mouth is closed. Lengths in mm.
"""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.geometry.subdivision import subdivided_faces, subdivision_hierarchy

_HALF_AXES_MM = (20.0, 9.0, 28.0)
_BEHIND_LIP_MM = (0.0, -6.0, -40.0)
_LEVELS = 4


def tongue_shape() -> tuple[Float[ndarray, "n 3"], Int[ndarray, "m 3"]]:
    """Give a tongue at rest, relative to the middle of the lower lip's rim."""
    vertices = np.concatenate([np.eye(3), -np.eye(3)])
    faces = np.array([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]])
    steps = subdivision_hierarchy(faces, len(vertices), _LEVELS, scheme="midpoint")
    for step in steps:
        vertices = step.matrix @ vertices
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    return vertices * _HALF_AXES_MM + _BEHIND_LIP_MM, subdivided_faces(steps, faces)[0]
