"""The visible surface of a linear head, ready to be posed and searched often.

Searching is in two steps: the nearest vertices, then exact closest points on the triangles around them. That misses
the closest triangle only where it has no corner among those vertices, and takes a tenth of the time of a tree over
all triangles, which a surface that moves in every iteration would need anew each time. Canonical units.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from numpy import ndarray

from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import vertex_normals
from nphm_core.models.linear_head import LinearHead

_N_NEAREST = 3


@dataclass(frozen=True)
class SurfacePoints:
    """Points of the surface: three corners, their weights, and where that is now."""

    corners: Int[ndarray, "n 3"]
    barycentric: Float[ndarray, "n 3"]
    point: Float[ndarray, "n 3"]
    normal: Float[ndarray, "n 3"]
    """Unit, interpolated between the corners."""

    def part(self, ids: Int[ndarray, " m"]) -> "SurfacePoints":
        """Give some of the points."""
        return SurfacePoints(self.corners[ids], self.barycentric[ids], self.point[ids], self.normal[ids])


class LinearSurface:
    """The part of a linear head that scans can show, with all components in one array."""

    def __init__(self, head: LinearHead) -> None:
        """Take the triangles whose corners are all visible."""
        self.head = head
        kept = head.visible[head.faces].all(axis=1)
        ids, faces = np.unique(head.faces[kept], return_inverse=True)
        self.faces: Int[ndarray, "n_faces 3"] = faces.reshape(-1, 3).astype(np.int64)
        self.mean = head.mean[ids].astype(np.float64)
        self.n_identity, self.n_expression = head.n_identity, head.n_expression
        self.basis: Float32[ndarray, "n_vertices 3 k"] = np.concatenate(
            [head.identity_basis[ids], head.expression_basis[ids]], axis=2
        )
        self.anchor_mean = head.mean[head.anchors].astype(np.float64)
        self.anchor_basis = np.concatenate(
            [head.identity_basis[head.anchors], head.expression_basis[head.anchors]], axis=2
        )

    @property
    def n_code(self) -> int:
        """Length of identity and expression code together."""
        return self.n_identity + self.n_expression

    def posed(self, code: Float[ndarray, " k"]) -> Float[ndarray, "n_vertices 3"]:
        """Give the visible vertices for an identity code followed by an expression code."""
        flat = self.basis.reshape(3 * len(self.mean), self.n_code)
        return self.mean + (flat @ code.astype(np.float32)).reshape(-1, 3)

    def anchors(self, code: Float[ndarray, " k"]) -> Float[ndarray, "n_anchors 3"]:
        """Give the anchors for an identity code followed by an expression code."""
        return self.anchor_mean + self.anchor_basis.astype(np.float64) @ code

    def closest(self, vertices: Float[ndarray, "n_vertices 3"], points: Float[ndarray, "n 3"]) -> SurfacePoints:
        """Find the points of the posed surface closest to given ones."""
        from scipy.spatial import cKDTree

        # An unbalanced tree is built in half the time and asked only once.
        tree = cKDTree(vertices, balanced_tree=False, compact_nodes=False)
        _, nearest = tree.query(points, k=_N_NEAREST)
        near = self._faces_at(nearest.ravel())
        found = ClosestPoints(vertices, self.faces[near]).query(points)
        corners = self.faces[near[found.face]]
        # Normals need all triangles around the corners.
        ring = self._faces_at(self.faces[near].ravel())
        used, faces = np.unique(self.faces[ring], return_inverse=True)
        normals = np.zeros_like(vertices)
        normals[used] = vertex_normals(vertices[used], faces.reshape(-1, 3))
        normal = np.einsum("nk,nkd->nd", found.barycentric, normals[corners])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        return SurfacePoints(corners, found.barycentric, found.point, normal)

    def jacobian(self, points: SurfacePoints) -> Float32[ndarray, "n 3 k"]:
        """Give how points of the surface move with the codes."""
        weight = points.barycentric.astype(np.float32)
        out = weight[:, 0, None, None] * self.basis[points.corners[:, 0]]
        for corner in (1, 2):
            out += weight[:, corner, None, None] * self.basis[points.corners[:, corner]]
        return out

    def _faces_at(self, vertex_ids: Int[ndarray, " n"]) -> Int[ndarray, " m"]:
        marked: Bool[ndarray, " n_vertices"] = np.zeros(len(self.mean), bool)
        marked[vertex_ids] = True
        return np.flatnonzero(marked[self.faces].any(axis=1))
