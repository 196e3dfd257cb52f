"""Where the head ends: the plane through the throat."""

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.errors import SamplingError
from nphm_core.supervision.samples import Plane

_BELOW_JAW_MM = 25.0
_BELOW_FACE_MM = 10.0


def throat_plane(
    vertices_mm: Float[ndarray, "n_vertices 3"],
    faces: Int[ndarray, "n_faces 3"],
    neck: Bool[ndarray, " n_vertices"],
    face: Bool[ndarray, " n_vertices"],
) -> Plane:
    """Give the plane through the throat of a mesh in the template's topology, normal towards the head.

    Parallel to the border between neck region and head (least squares) and 25 mm below it, so that the underside of
    the chin stays; in any case 10 mm below the face, however wide the mouth is open. NPHM cuts along a plane through
    three vertices of its template (METHOD 1.6).
    """
    upper = _upper_border(vertices_mm, faces, neck, face)
    if len(upper) < 3:
        raise SamplingError(
            f"the template's neck region has {len(upper)} vertices at its border; at least 3 were expected. "
            "Make the template again, or check its regions"
        )
    origin = upper.mean(0)
    normal = np.linalg.svd(upper - origin, full_matrices=False)[2][2]
    normal = normal if (vertices_mm[face].mean(0) - origin) @ normal > 0 else -normal
    lowest = float(((vertices_mm[face] - origin) @ normal).min())
    return Plane(origin + min(-_BELOW_JAW_MM, lowest - _BELOW_FACE_MM) * normal, normal)


def _upper_border(vertices: ndarray, faces: ndarray, neck: ndarray, face: ndarray) -> Float[ndarray, "k 3"]:
    n_neck = neck[faces].sum(1)
    mixed = faces[(n_neck > 0) & (n_neck < 3)]
    border = np.zeros(len(vertices), bool)
    border[mixed.ravel()] = True
    return vertices[border & neck]
