"""Cotangent weights, vertex neighbourhoods and vertex areas of triangle meshes.

Neighbourhoods are compressed rows (`offsets`, `neighbours`) for loops in numba. Topology and weights are apart: the
first belongs to a template, the second to one shape. Cotangents are clamped from below, so that the Laplacian is
positive semi-definite on any mesh (Sorkine and Alexa 2007 need that; obtuse triangles break it).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numba import njit
from numpy import ndarray


@dataclass(frozen=True)
class Neighbourhood:
    """Which vertices share an edge."""

    offsets: Int[ndarray, " n_vertices_plus_one"]
    """Neighbours of vertex i: `neighbours[offsets[i]:offsets[i + 1]]`."""
    neighbours: Int[ndarray, " n_directed_edges"]
    """Ascending within each vertex."""
    face_slots: Int[ndarray, "n_faces 6"]
    """Places in `neighbours` of a face's directed edges: 0-1, 1-0, 1-2, 2-1, 2-0, 0-2."""


def neighbourhood(faces: Int[ndarray, "n_faces 3"], n_vertices: int) -> Neighbourhood:
    """Find each vertex's neighbours."""
    offsets, neighbours, slots = _neighbourhood(np.ascontiguousarray(faces, np.int64), n_vertices)
    return Neighbourhood(offsets, neighbours, slots)


def corner_cotangents(
    vertices: Float[ndarray, "n_vertices 3"], faces: Int[ndarray, "n_faces 3"], *, smallest: float = 0.05
) -> Float[ndarray, "n_faces 3"]:
    """Give half the cotangent of each face's angles, clamped to [smallest, 10] before halving.

    The angle at corner k weights the edge opposite to it. Degenerate triangles give the lower clamp.
    """
    return _corner_cotangents(np.ascontiguousarray(vertices, float), np.ascontiguousarray(faces, np.int64), smallest)


def edge_weights(cotangents: Float[ndarray, "n_faces 3"], around: Neighbourhood) -> Float[ndarray, " n_directed_edges"]:
    """Sum the halved cotangents over the faces at each edge; parallel to `around.neighbours`."""
    # Edge 0-1 is opposite to corner 2, and so on.
    per_slot = np.repeat(cotangents[:, [2, 0, 1]], 2, axis=1)
    return np.bincount(around.face_slots.ravel(), per_slot.ravel(), minlength=len(around.neighbours))


def vertex_areas(
    vertices: Float[ndarray, "n_vertices 3"], faces: Int[ndarray, "n_faces 3"]
) -> Float[ndarray, " n_vertices"]:
    """Give a third of the area of the triangles at each vertex."""
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6
    return np.bincount(faces.ravel(), np.repeat(area, 3), minlength=len(vertices))


@njit(cache=True, nogil=True)
def _neighbourhood(faces, n_vertices):
    n_faces = len(faces)
    start = np.zeros(n_vertices + 1, np.int64)
    for f in range(n_faces):
        for k in range(3):
            start[faces[f, k] + 1] += 2
    for i in range(n_vertices):
        start[i + 1] += start[i]
    fill = start[:-1].copy()
    raw = np.empty(start[n_vertices], np.int64)
    for f in range(n_faces):
        for k in range(3):
            i = faces[f, k]
            raw[fill[i]] = faces[f, (k + 1) % 3]
            raw[fill[i] + 1] = faces[f, (k + 2) % 3]
            fill[i] += 2
    offsets = np.zeros(n_vertices + 1, np.int64)
    n = 0
    for i in range(n_vertices):
        row = raw[start[i] : start[i + 1]]
        row.sort()
        previous = -1
        for j in row:
            if j != previous:
                raw[n] = j  # never overtakes the rows that are still to be read
                n += 1
                previous = j
        offsets[i + 1] = n
    neighbours = raw[:n].copy()
    slots = np.empty((n_faces, 6), np.int64)
    for f in range(n_faces):
        for k in range(3):
            i, j = faces[f, k], faces[f, (k + 1) % 3]
            slots[f, 2 * k] = offsets[i] + np.searchsorted(neighbours[offsets[i] : offsets[i + 1]], j)
            slots[f, 2 * k + 1] = offsets[j] + np.searchsorted(neighbours[offsets[j] : offsets[j + 1]], i)
    return offsets, neighbours, slots


@njit(cache=True, nogil=True)
def _corner_cotangents(vertices, faces, smallest):
    out = np.empty((len(faces), 3))
    for f in range(len(faces)):
        for k in range(3):
            p, q, r = faces[f, k], faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
            ux, uy, uz = (
                vertices[q, 0] - vertices[p, 0],
                vertices[q, 1] - vertices[p, 1],
                vertices[q, 2] - vertices[p, 2],
            )
            vx, vy, vz = (
                vertices[r, 0] - vertices[p, 0],
                vertices[r, 1] - vertices[p, 1],
                vertices[r, 2] - vertices[p, 2],
            )
            cx, cy, cz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
            sine = np.sqrt(cx * cx + cy * cy + cz * cz)
            cosine = ux * vx + uy * vy + uz * vz
            cot = cosine / sine if sine > 1e-12 else smallest
            out[f, k] = 0.5 * min(max(cot, smallest), 10.0)
    return out
