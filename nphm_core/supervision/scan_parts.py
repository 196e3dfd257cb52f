"""Which parts of a scan are samples of the head: above the throat, and measured rather than filled."""

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.errors import SamplingError
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.supervision.sample_sdf import ClosedScan, Plane

# Positions in a file are float32, of a head that may lie a metre from the origin.
_SAME_SURFACE_MM = 0.01
_BELOW_JAW_MM = 25.0


def closed_scan(
    vertices: Float[ndarray, "n 3"],
    faces: Int[ndarray, "m 3"],
    scan_vertices: Float[ndarray, "n_scan 3"],
    scan_faces: Int[ndarray, "m_scan 3"],
) -> ClosedScan:
    """Tell fills from measurements: a fill has its centre, or the middle of an edge, off the scan's surface.

    All positions in mm. Asks the surfaces and not their indices, so that any repair is understood.
    """
    tree = ClosestPoints(scan_vertices, scan_faces)
    corners = vertices[faces]
    off = tree.query(corners.mean(1), _SAME_SURFACE_MM).face < 0
    unsure = np.flatnonzero(~off)
    for k in range(3):
        middle = 0.5 * (corners[unsure, k] + corners[unsure, (k + 1) % 3])
        off[unsure] |= tree.query(middle, _SAME_SURFACE_MM).face < 0
    return ClosedScan(vertices, faces, off)


def throat_plane(
    vertices_mm: Float[ndarray, "n_vertices 3"],
    faces: Int[ndarray, "n_faces 3"],
    neck: Bool[ndarray, " n_vertices"],
    face: Bool[ndarray, " n_vertices"],
) -> Plane:
    """Give the plane through the throat of a mesh in the template's topology, normal towards the head.

    Parallel to the border between neck region and head (least squares) and 25 mm below it, so that the underside of
    the chin stays. NPHM cuts along a plane through three vertices of its template (METHOD 1.6).
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
    return Plane(origin - _BELOW_JAW_MM * normal, normal)


def _upper_border(vertices: ndarray, faces: ndarray, neck: ndarray, face: ndarray) -> Float[ndarray, "k 3"]:
    n_neck = neck[faces].sum(1)
    mixed = faces[(n_neck > 0) & (n_neck < 3)]
    border = np.zeros(len(vertices), bool)
    border[mixed.ravel()] = True
    return vertices[border & neck]
