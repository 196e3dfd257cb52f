"""Connected pieces of meshes and point clouds.

Components are numbered by their first vertex, so that labels depend on the vertex order alone.
"""

import numpy as np
from jaxtyping import Float, Int64
from numba import njit
from numpy import ndarray

from nphm_core.geometry.mesh import face_normals


def connected_components(faces: Int64[ndarray, "n_faces 3"], n_vertices: int) -> Int64[ndarray, " n_vertices"]:
    """Label vertices that triangles connect; a vertex without triangle is a component of its own."""
    if len(faces) and (faces.min() < 0 or faces.max() >= n_vertices):
        raise ValueError(f"faces name vertices {faces.min()} to {faces.max()}; there are {n_vertices}")
    return _components(np.ascontiguousarray(faces, np.int64).reshape(-1, 3), n_vertices)


def component_areas(
    vertices: Float[ndarray, "n_vertices 3"], faces: Int64[ndarray, "n_faces 3"], label: Int64[ndarray, " n_vertices"]
) -> Float[ndarray, " n_components"]:
    """Sum the triangles' areas in each component."""
    return np.bincount(label[faces[:, 0]], face_normals(vertices, faces)[1], minlength=int(label.max(initial=-1)) + 1)


def point_clusters(points: Float[ndarray, "n 3"], radius: float) -> Int64[ndarray, " n"]:
    """Label points of a cloud that chains of steps of at most `radius` connect.

    Works on a grid: steps of up to 3.5 times `radius` may connect as well, shorter ones than `radius` always do.
    """
    if not radius > 0:
        raise ValueError(f"radius is {radius}; expected a number above 0")
    if not np.isfinite(points).all():
        raise ValueError("the points hold values that are not finite; remove them before")
    if len(points) == 0:
        return np.zeros(0, np.int64)
    cell = np.floor((points - points.min(axis=0)) / radius).astype(np.int64) + 1
    size = cell.max(axis=0) + 2
    key = (cell[:, 0] * size[1] + cell[:, 1]) * size[2] + cell[:, 2]
    occupied, cell_of_point = np.unique(key, return_inverse=True)
    pairs = []
    for dx, dy, dz in [
        (0, 0, 1),
        *((0, 1, k) for k in (-1, 0, 1)),
        *((1, j, k) for j in (-1, 0, 1) for k in (-1, 0, 1)),
    ]:
        neighbour = occupied + (dx * size[1] + dy) * size[2] + dz
        at = np.minimum(np.searchsorted(occupied, neighbour), len(occupied) - 1)
        found = np.flatnonzero(occupied[at] == neighbour)
        pairs.append(np.stack([found, at[found], at[found]], axis=1))
    label = _components(np.concatenate(pairs), len(occupied))[cell_of_point]
    # Renumber by the first point.
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


@njit("i8[::1](i8[:,::1], i8)", cache=True, nogil=True)
def _components(faces, n_vertices):
    parent = np.arange(n_vertices)
    for i in range(len(faces)):
        for k in range(2):
            a, b = faces[i, k], faces[i, k + 1]
            while parent[a] != a:
                parent[a] = parent[parent[a]]
                a = parent[a]
            while parent[b] != b:
                parent[b] = parent[parent[b]]
                b = parent[b]
            # The smaller index is the root: it comes first when labels are given below.
            if a < b:
                parent[b] = a
            elif b < a:
                parent[a] = b
    label = np.empty(n_vertices, np.int64)
    n = 0
    for i in range(n_vertices):
        if parent[i] == i:
            label[i] = n
            n += 1
        else:
            label[i] = label[parent[i]]
    return label
