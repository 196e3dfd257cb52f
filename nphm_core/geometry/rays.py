"""First hits of rays on a triangle mesh.

Embree finds the triangle in single precision, in a frame where the mesh has size one and rays start near it, so that
neither the unit nor a distant camera costs precision; where the ray meets that triangle is then solved in double.
Embree is used directly, because trimesh's wrapper around it takes half a second to import.
"""

from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

# How far outside its triangle a hit may lie in double precision before Embree's own answer is kept.
_MAX_OUTSIDE = 1e-3


@dataclass(frozen=True)
class Hits:
    """Where each ray first meets the surface."""

    face: Int64[ndarray, " n"]
    """Triangle that is met; -1 for a miss."""
    barycentric: Float[ndarray, "n 3"]
    """Weights of its corners, in [0, 1]; zero for a miss."""
    distance: Float[ndarray, " n"]
    """Length from the origin, in the unit of the mesh whatever the direction's length; infinite for a miss."""

    @property
    def hit(self) -> Bool[ndarray, " n"]:
        """Mark the rays that meet the surface."""
        return self.face >= 0


class RayCaster:
    """Casts rays at one mesh, built once and asked often; triangles are met from both sides."""

    def __init__(self, vertices: Float[ndarray, "n_vertices 3"], faces: Int64[ndarray, "n_faces 3"]) -> None:
        """Build Embree's tree; no faces, or positions that are not finite, raise ValueError."""
        if len(faces) == 0:
            raise ValueError("no faces: rays can only meet triangles")
        if not np.isfinite(vertices).all():
            raise ValueError("the vertices hold values that are not finite; remove them before")
        if faces.min() < 0 or faces.max() >= len(vertices):
            raise ValueError(f"faces name vertices {faces.min()} to {faces.max()}; there are {len(vertices)}")
        lower, upper = vertices.min(axis=0), vertices.max(axis=0)
        self._centre = 0.5 * (lower + upper)
        # The sphere around the mesh has radius one.
        self._radius = max(0.5 * float(np.linalg.norm(upper - lower)), 1e-300)
        self._vertices = (vertices - self._centre) / self._radius
        self._faces = faces
        self._scene = EmbreeScene(robust=True)
        self._mesh = TriangleMesh(self._scene, self._vertices.astype(np.float32), faces.astype(np.int32))

    def cast(self, origins: Float[ndarray, "n 3"], directions: Float[ndarray, "n 3"]) -> Hits:
        """Give the first hit of each ray; directions need not be of unit length.

        None slips through an edge between two triangles; exactly through a vertex, two in a thousand do.
        Values that are not finite and directions of length zero raise ValueError.
        """
        if not (np.isfinite(origins).all() and np.isfinite(directions).all()):
            raise ValueError("rays have values that are not finite; leave those rays out")
        length = np.linalg.norm(directions, axis=1)
        if not (length > 0).all():
            raise ValueError(f"{int((length == 0).sum())} of {len(length)} rays have a direction of length zero")
        direction = directions / length[:, None]
        start = (origins - self._centre) / self._radius
        skipped = np.maximum(-(start * direction).sum(axis=1) - 1.1, 0.0)
        start += skipped[:, None] * direction
        raw = self._scene.run(start.astype(np.float32), direction.astype(np.float32), output=True)
        face = raw["primID"].astype(np.int64)
        barycentric, distance = np.zeros((len(face), 3)), np.full(len(face), np.inf)
        met = np.flatnonzero(face >= 0)
        corners = self._vertices[self._faces[face[met]]]
        weights = _weights(corners, start[met], direction[met], raw["u"][met], raw["v"][met])
        offset = (corners * weights[:, :, None]).sum(axis=1) - start[met]
        along = np.maximum((offset * direction[met]).sum(axis=1), 0.0)
        barycentric[met], distance[met] = weights, (along + skipped[met]) * self._radius
        return Hits(face, barycentric, distance)


def _weights(corners: ndarray, start: ndarray, direction: ndarray, u: ndarray, v: ndarray) -> ndarray:
    # Möller and Trumbore, Fast, minimum storage ray-triangle intersection, 1997.
    edge_b, edge_c = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = np.cross(direction, edge_c)
    determinant = (edge_b * p).sum(axis=1)
    s = start - corners[:, 0]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exact_u = (s * p).sum(axis=1) / determinant
        exact_v = (direction * np.cross(s, edge_b)).sum(axis=1) / determinant
        outside = np.maximum(np.maximum(-exact_u, -exact_v), exact_u + exact_v - 1)
    # Seen edge on, the plane says nothing.
    exact = outside < _MAX_OUTSIDE
    b, c = np.where(exact, exact_u, u), np.where(exact, exact_v, v)
    weights = np.clip(np.stack([1 - b - c, b, c], axis=1), 0.0, 1.0)
    return weights / weights.sum(axis=1, keepdims=True)
