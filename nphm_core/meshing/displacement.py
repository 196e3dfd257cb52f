"""Displacements of a mesh's vertices: pulled to targets smoothly, or filled in where nothing is known.

Smooth means a small Laplacian: the energy is the integral of |laplacian d|^2, with cotangent weights of the mesh at
rest, so displacements that are linear along the surface cost nothing. A piece of the mesh that nothing pulls is carried
along by a similarity of the vertices around it (eyeballs follow the lids). Canonical units, float64.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from nphm_core.geometry.components import connected_components
from nphm_core.geometry.laplacian import corner_cotangents, vertex_areas
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, Similarity, align_points

_N_AROUND = 12
_FADING = 5.0 / MM_PER_CANONICAL_UNIT
"""Length over which a rim's displacement fades into that of what is around."""


class SmoothDisplacement:
    """Displacements of one mesh; the mesh at rest says what is smooth."""

    def __init__(self, rest: Float[ndarray, "n 3"], faces: Int[ndarray, "n_faces 3"]) -> None:
        """Prepare a mesh; vertices without a triangle are pieces of their own."""
        self.rest = rest
        self.label = connected_components(faces, len(rest))
        area = vertex_areas(rest, faces)
        # A vertex without area would be free of all smoothness.
        self.area = np.maximum(area, 1e-3 * area.mean())
        self._stiffness = _stiffness(rest, faces)
        self._bending = (self._stiffness @ diags_array(1 / self.area) @ self._stiffness).tocsc()

    def pulled(
        self, target: Float[ndarray, "n 3"], weight: Float[ndarray, " n"], length: float
    ) -> Float[ndarray, "n 3"]:
        """Pull the mesh at rest to targets; detail finer than `length` is kept. Vertices with weight zero follow."""
        held = self._pieces_with(weight > 0)
        pull = self.area * weight
        matrix = (diags_array(pull) + length**4 * self._bending).tocsc()[held][:, held]
        out = self.rest.copy()
        # Target places, not displacements, of vertices without weight may be anything.
        offset = np.where(weight[:, None] > 0, target - self.rest, 0.0)
        out[held] += splu(matrix).solve((pull[:, None] * offset)[held])
        return self._carried(out, held, weight > 0, with_scale=True)

    def filled(
        self, vertices: Float[ndarray, "n 3"], known: Bool[ndarray, " n"], *, with_scale: bool
    ) -> Float[ndarray, "n 3"]:
        """Keep the known vertices and let the others follow; loose pieces may change size with `with_scale`.

        A vertex moves as the known ones around it in space do, so that the mouth's inside stays behind the cheeks;
        towards the rim of what is known this goes over into the rim's own displacement.
        """
        held = self._pieces_with(known)
        free = np.flatnonzero(held & ~known)
        out = np.where(known[:, None], vertices, self.rest)
        if len(free):
            pull = self.area[free] / _FADING**2
            right = pull[:, None] * self._around(vertices, known, free)
            right = right - self._stiffness[free][:, known] @ (vertices - self.rest)[known]
            out[free] += splu((self._stiffness[free][:, free] + diags_array(pull)).tocsc()).solve(right)
        return self._carried(out, held, known, with_scale=with_scale)

    def _around(
        self, vertices: Float[ndarray, "n 3"], known: Bool[ndarray, " n"], asked: Int[ndarray, " m"]
    ) -> Float[ndarray, "m 3"]:
        """Average the displacements of the nearest known vertices, nearer ones more."""
        source = np.flatnonzero(known)
        distance, near = cKDTree(self.rest[source]).query(self.rest[asked], k=min(_N_AROUND, len(source)))
        weight = 1 / np.maximum(distance, 1e-6) ** 2
        offset = (vertices - self.rest)[source[near]]
        return (weight[:, :, None] * offset).sum(axis=1) / weight.sum(axis=1)[:, None]

    def _pieces_with(self, known: Bool[ndarray, " n"]) -> Bool[ndarray, " n"]:
        if known.sum() < 3:
            raise ValueError(f"{int(known.sum())} vertices are known; expected at least 3")
        # Two known vertices do not say how a piece is turned.
        return np.bincount(self.label, known)[self.label] >= 3

    def _carried(
        self, moved: Float[ndarray, "n 3"], held: Bool[ndarray, " n"], known: Bool[ndarray, " n"], *, with_scale: bool
    ) -> Float[ndarray, "n 3"]:
        if held.all():
            return moved
        source = np.flatnonzero(held & known)
        tree = cKDTree(self.rest[source])
        for piece in np.unique(self.label[~held]):
            mine = self.label == piece
            near = np.unique(tree.query(self.rest[mine], k=min(_N_AROUND, len(source)))[1])
            moved[mine] = _similarity(self.rest[source[near]], moved[source[near]], with_scale).apply(self.rest[mine])
        return moved


def _similarity(source: Float[ndarray, "n 3"], target: Float[ndarray, "n 3"], with_scale: bool) -> Similarity:
    spread = np.linalg.svd(source - source.mean(axis=0), compute_uv=False)
    if len(source) < 3 or spread[1] < 1e-3 * spread[0]:
        return Similarity(1.0, np.eye(3), (target - source).mean(axis=0))
    return align_points(source, target, with_scale=with_scale)


def _stiffness(vertices: Float[ndarray, "n 3"], faces: Int[ndarray, "n_faces 3"]) -> csr_array:
    # The angle at corner k weights the edge between the other two.
    weight = corner_cotangents(vertices, faces).T.ravel()
    i, j = faces[:, [1, 2, 0]].T.ravel(), faces[:, [2, 0, 1]].T.ravel()
    n = len(vertices)
    across = coo_array((np.concatenate([weight, weight]), (np.concatenate([i, j]), np.concatenate([j, i]))), (n, n))
    return (diags_array(across.sum(axis=1)) - across).tocsr()
