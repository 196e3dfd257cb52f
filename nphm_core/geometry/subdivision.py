"""Subdivision of triangle meshes as a sparse matrix and new faces.

A subdivision depends on the faces alone, so it is computed once for a template and then applied to any positions,
displacements or weights: `fine = subdivision.matrix @ coarse`. The first coarse vertices keep their order and index;
new vertices follow in the order of their edges. Loop's weights as in Loop 1987, with Warren's valence rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.geometry.mesh import vertex_normals

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Scheme = Literal["loop", "midpoint"]


@dataclass(frozen=True)
class Subdivision:
    """One refinement of a mesh's faces."""

    matrix: "csr_matrix"
    """Maps values at coarse vertices to values at fine ones; every row sums to one."""
    faces: Int[ndarray, "n_fine_faces 3"]
    """The children of a face lie together, in the order of the coarse faces."""
    n_coarse_vertices: int
    parent_face: Int[ndarray, " n_fine_faces"]
    """The coarse face that each face is a part of."""
    cut_edges: Int[ndarray, "n_new 2"]
    """Coarse ends of the edge that each new vertex lies on."""

    @property
    def n_vertices(self) -> int:
        """Number of vertices after the refinement."""
        return int(self.matrix.shape[0])

    def to_arrays(self) -> dict[str, ndarray]:
        """Give plain arrays for an NPZ file."""
        return {
            "data": self.matrix.data,
            "indices": self.matrix.indices,
            "indptr": self.matrix.indptr,
            "shape": np.array(self.matrix.shape),
            "faces": self.faces,
            "parent_face": self.parent_face,
            "cut_edges": self.cut_edges,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, ndarray]) -> "Subdivision":
        """Read what `to_arrays` gave."""
        from scipy.sparse import csr_matrix

        shape = tuple(int(n) for n in arrays["shape"])
        matrix = csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape)
        return cls(matrix, arrays["faces"], shape[1], arrays["parent_face"], arrays["cut_edges"])


def loop_subdivision(
    faces: Int[ndarray, "n_faces 3"],
    n_vertices: int,
    selected_faces: Bool[ndarray, " n_faces"] | None = None,
    scheme: Scheme = "loop",
) -> Subdivision:
    """Cut faces in four; all of them, or the selected ones.

    Loop's rules smooth inner vertices and boundaries. Where a face that is not selected has an edge in common with a
    selected one, it is split so that no T-junction stays; vertices that it touches do not move, and the new vertex on
    the common edge is its middle, so the surface of faces that are not selected does not change. `midpoint` moves no
    vertex at all.
    """
    selected = np.ones(len(faces), bool) if selected_faces is None else np.asarray(selected_faces, bool)
    edges = _edge_table(faces, n_vertices)
    cut = np.zeros(len(edges.ends), bool)
    cut[edges.of_face[selected].ravel()] = True
    new_vertex = np.full(len(edges.ends), -1, np.int64)
    new_vertex[cut] = n_vertices + np.arange(cut.sum())
    fine_faces, parent = _cut_faces(faces, new_vertex[edges.of_face])
    rules = _midpoint_rules if scheme == "midpoint" else _loop_rules
    matrix = _matrix(rules(edges, cut, selected, n_vertices), n_vertices, int(cut.sum()))
    return Subdivision(matrix, fine_faces, n_vertices, parent, edges.ends[cut])


def subdivision_hierarchy(
    faces: Int[ndarray, "n_faces 3"],
    n_vertices: int,
    levels: int,
    selected_faces: Bool[ndarray, " n_faces"] | None = None,
    scheme: Scheme = "loop",
) -> list[Subdivision]:
    """Subdivide repeatedly; the descendants of selected faces stay selected. Coarsest step first."""
    out: list[Subdivision] = []
    selected = selected_faces
    for _ in range(levels):
        step = loop_subdivision(faces, n_vertices, selected, scheme)
        out.append(step)
        selected = None if selected is None else selected[step.parent_face]
        faces, n_vertices = step.faces, step.n_vertices
    return out


def subdivide_values(hierarchy: Sequence[Subdivision], values: Float[ndarray, "n_coarse ..."]) -> ndarray:
    """Carry values, one row a vertex, from the coarsest vertices to the finest."""
    for step in hierarchy:
        values = step.matrix @ values
    return values


def subdivide_linearly(hierarchy: Sequence[Subdivision], values: Float[ndarray, "n_coarse ..."]) -> ndarray:
    """Carry values to the finest vertices and change none: a new vertex gets the mean of its edge's ends."""
    for step in hierarchy:
        values = np.concatenate([values, values[step.cut_edges].mean(1)])
    return values


def subdivide_surface(
    hierarchy: Sequence[Subdivision], faces: Int[ndarray, "n_faces 3"], vertices: Float[ndarray, "n_coarse 3"]
) -> Float[ndarray, "n_fine 3"]:
    """Subdivide a surface without moving its vertices along it.

    Loop's rules move a vertex towards the mean of its neighbours; where these lie unevenly around it, it slides along
    the surface and no longer marks the same place. That part of the movement is taken back, and the vertices around
    follow; the part along the normal, which makes the surface smooth, stays.
    """
    smooth = subdivide_values(hierarchy, vertices)
    slid = subdivide_linearly(hierarchy, vertices - smooth[: len(vertices)])
    normals = vertex_normals(smooth, hierarchy[-1].faces if hierarchy else faces)
    return smooth + slid - (slid * normals).sum(1)[:, None] * normals


def subdivided_faces(
    hierarchy: Sequence[Subdivision], faces: Int[ndarray, "n_faces 3"]
) -> tuple[Int[ndarray, "n_fine_faces 3"], Int[ndarray, " n_fine_faces"]]:
    """Give the finest faces, and for each the face among `faces` that it is a part of."""
    parent = np.arange(len(faces))
    for step in hierarchy:
        faces, parent = step.faces, parent[step.parent_face]
    return faces, parent


def hierarchy_to_arrays(hierarchy: Sequence[Subdivision]) -> dict[str, ndarray]:
    """Give plain arrays for one NPZ file; the keys begin with the level."""
    return {f"{i}_{key}": value for i, step in enumerate(hierarchy) for key, value in step.to_arrays().items()}


def hierarchy_from_arrays(arrays: dict[str, ndarray]) -> list[Subdivision]:
    """Read what `hierarchy_to_arrays` gave."""
    levels = sorted({int(key.split("_", 1)[0]) for key in arrays})
    return [
        Subdivision.from_arrays({k.split("_", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{i}_")})
        for i in levels
    ]


@dataclass(frozen=True)
class _Edges:
    ends: ndarray
    """(n_edges 2) vertices, smaller first."""
    of_face: ndarray
    """(n_faces 3) edge from corner k to corner k + 1."""
    opposite: ndarray
    """(n_faces 3) corner opposite to that edge."""
    n_faces: ndarray
    """(n_edges) faces at the edge; an inner edge has two."""


def _edge_table(faces: ndarray, n_vertices: int) -> _Edges:
    following = faces[:, [1, 2, 0]]
    key = (np.minimum(faces, following) * n_vertices + np.maximum(faces, following)).ravel()
    unique, inverse, count = np.unique(key, return_inverse=True, return_counts=True)
    ends = np.stack(np.divmod(unique, max(n_vertices, 1)), axis=1)
    return _Edges(ends, inverse.reshape(faces.shape), faces[:, [2, 0, 1]], count)


def _cut_faces(faces: ndarray, middles: ndarray) -> tuple[ndarray, ndarray]:
    n_cut = (middles >= 0).sum(1)
    parts, parents, order = [], [], []

    def put(rows: ndarray, children: list[list[ndarray]]) -> None:
        for rank, child in enumerate(children):
            parts.append(np.stack(child, axis=1))
            parents.append(rows)
            order.append(rows * 4 + rank)

    rows = np.flatnonzero(n_cut == 0)
    put(rows, [list(faces[rows].T)])
    rows = np.flatnonzero(n_cut == 3)
    (a, b, c), (ab, bc, ca) = faces[rows].T, middles[rows].T
    put(rows, [[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]])
    rows = np.flatnonzero(n_cut == 1)
    (a, b, c), ab = _turned(faces, rows, middles[rows].argmax(1)), middles[rows].max(1)
    put(rows, [[a, ab, c], [ab, b, c]])
    rows = np.flatnonzero(n_cut == 2)
    whole = middles[rows].argmin(1)
    a, b, c = _turned(faces, rows, whole)
    bc, ca = middles[rows, (whole + 1) % 3], middles[rows, (whole + 2) % 3]
    put(rows, [[a, b, bc], [a, bc, ca], [ca, bc, c]])
    arranged = np.argsort(np.concatenate(order), kind="stable")
    return np.concatenate(parts)[arranged], np.concatenate(parents)[arranged]


def _turned(faces: ndarray, rows: ndarray, first: ndarray) -> list[ndarray]:
    return [faces[rows, (first + k) % 3] for k in range(3)]


def _midpoint_rules(edges: _Edges, cut: ndarray, selected: ndarray, n_vertices: int) -> list[tuple]:
    new = n_vertices + np.arange(cut.sum())
    keep = np.arange(n_vertices)
    ends = edges.ends[cut]
    half = np.full(len(new), 0.5)
    return [(keep, keep, np.ones(n_vertices)), (new, ends[:, 0], half), (new, ends[:, 1], half)]


def _loop_rules(edges: _Edges, cut: ndarray, selected: ndarray, n_vertices: int) -> list[tuple]:
    # Smooth are vertices in the middle of selected faces, and edges between two of them.
    moves = np.ones(n_vertices, bool)
    moves[edges.opposite[~selected].ravel()] = False
    n_selected = np.bincount(edges.of_face[selected].ravel(), minlength=len(edges.ends))
    inner = (edges.n_faces == 2) & (n_selected == 2)
    new_vertex = np.full(len(cut), -1, np.int64)
    new_vertex[cut] = n_vertices + np.arange(cut.sum())
    weight = np.where(inner, 3 / 8, 0.5)[cut]
    out = [(new_vertex[cut], edges.ends[cut, side], weight) for side in (0, 1)]
    smooth = inner[edges.of_face] & selected[:, None]
    rows, cols = new_vertex[edges.of_face[smooth]], edges.opposite[smooth]
    return [*out, (rows, cols, np.full(len(rows), 1 / 8)), *_loop_vertex_rules(edges, moves, n_vertices)]


def _loop_vertex_rules(edges: _Edges, moves: ndarray, n_vertices: int) -> list[tuple]:
    boundary = edges.n_faces != 2
    n_boundary = np.bincount(edges.ends[boundary].ravel(), minlength=n_vertices)
    valence = np.bincount(edges.ends.ravel(), minlength=n_vertices)
    inner = moves & (n_boundary == 0) & (valence > 0)
    # A vertex where several boundaries meet is a corner and stays.
    on_boundary = moves & (n_boundary == 2)
    beta = np.where(valence == 3, 3 / 16, 3 / (8 * np.maximum(valence, 1)))
    own = np.where(inner, 1 - valence * beta, np.where(on_boundary, 0.75, 1.0))
    out = [(np.arange(n_vertices), np.arange(n_vertices), own)]
    for a, b in ((0, 1), (1, 0)):
        here, there = edges.ends[:, a], edges.ends[:, b]
        keep = inner[here]
        out.append((here[keep], there[keep], beta[here[keep]]))
        keep = boundary & on_boundary[here]
        out.append((here[keep], there[keep], np.full(keep.sum(), 1 / 8)))
    return out


def _matrix(rules: list[tuple], n_vertices: int, n_new: int) -> "csr_matrix":
    from scipy.sparse import coo_matrix

    rows, cols, values = (np.concatenate([rule[k] for rule in rules]) for k in range(3))
    return coo_matrix((values, (rows, cols)), (n_vertices + n_new, n_vertices)).tocsr()
