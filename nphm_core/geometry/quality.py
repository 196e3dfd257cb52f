"""What is right and wrong with a mesh as a surface: boundaries, manifoldness, orientation, folds.

Watertight: no boundary edge, every edge in two faces, consistently oriented. Triangles that cross are in
`nphm_core.geometry.intersections`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from numba import njit
from numpy import ndarray

from nphm_core.geometry.components import connected_components
from nphm_core.geometry.mesh import face_normals

# A triangle lower than this fraction of its longest edge has no direction that can be trusted.
_DEGENERATE_HEIGHT = 1e-7


@dataclass(frozen=True)
class MeshQuality:
    """Counts that say whether a mesh is a proper surface."""

    n_vertices: int
    """Vertices, unused ones included."""
    n_faces: int
    """Triangles."""
    n_unused_vertices: int
    """Vertices that no triangle uses."""
    n_degenerate_faces: int
    """Triangles without area: a repeated vertex, or corners on a line."""
    n_components: int
    """Pieces that share no vertex."""
    n_boundary_edges: int
    """Edges in one triangle only."""
    n_boundary_loops: int
    """Closed walks along boundary edges: holes and outer rims."""
    n_nonmanifold_edges: int
    """Edges in more than two triangles."""
    n_nonmanifold_vertices: int
    """Vertices whose triangles are no single fan."""
    n_misoriented_edges: int
    """Edges between two triangles that disagree about which side is outside."""
    euler_number: int
    """Used vertices - edges + faces; 2 for a closed surface without handles."""
    signed_volume: float
    """Enclosed volume in the mesh's unit cubed, negative if faces look inward; NaN unless watertight."""

    @property
    def is_watertight(self) -> bool:
        """Tell whether the surface is closed and consistently oriented."""
        bad = self.n_boundary_edges + self.n_nonmanifold_edges + self.n_misoriented_edges
        return self.n_faces > 0 and bad == 0

    @property
    def is_manifold(self) -> bool:
        """Tell whether the surface is a disc or half a disc around every point."""
        return self.n_nonmanifold_edges == 0 and self.n_nonmanifold_vertices == 0


def measure_quality(vertices: Float[ndarray, "n_vertices 3"], faces: Int64[ndarray, "n_faces 3"]) -> MeshQuality:
    """Count the defects of a mesh; a mesh without faces has none and is not watertight."""
    n_vertices = len(vertices)
    edges = _Edges(faces, n_vertices)
    used = np.zeros(n_vertices, bool)
    used[faces.ravel()] = True
    label = connected_components(faces, n_vertices)
    bad_edges = int((edges.count != 2).sum()) + int(edges.misoriented.sum())
    closed = len(faces) > 0 and bad_edges == 0
    return MeshQuality(
        n_vertices=n_vertices,
        n_faces=len(faces),
        n_unused_vertices=int((~used).sum()),
        n_degenerate_faces=int(degenerate_faces(vertices, faces).sum()),
        n_components=len(np.unique(label[used])),
        n_boundary_edges=int((edges.count == 1).sum()),
        n_boundary_loops=len(_boundary_loops(faces, edges)),
        n_nonmanifold_edges=int((edges.count > 2).sum()),
        n_nonmanifold_vertices=int(_nonmanifold_vertices(faces, n_vertices, edges).sum()),
        n_misoriented_edges=int(edges.misoriented.sum()),
        euler_number=int(used.sum()) - len(edges.count) + len(faces),
        signed_volume=_signed_volume(vertices, faces) if closed else float("nan"),
    )


def degenerate_faces(
    vertices: Float[ndarray, "n_vertices 3"], faces: Int64[ndarray, "n_faces 3"]
) -> Bool[ndarray, " n_faces"]:
    """Mark triangles whose height is less than a ten-millionth of their longest edge."""
    return _degenerate(np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.int64))


def nonmanifold_vertices(faces: Int64[ndarray, "n_faces 3"], n_vertices: int) -> Bool[ndarray, " n_vertices"]:
    """Mark vertices whose triangles do not hang together by edges at that vertex."""
    return _nonmanifold_vertices(faces, n_vertices, _Edges(faces, n_vertices))


def boundary_loops(faces: Int64[ndarray, "n_faces 3"]) -> list[Int64[ndarray, " n_loop"]]:
    """Give the vertices of each boundary loop, in the direction of the triangles at it, longest loop first.

    A triangle that closes the hole runs the other way. Loops that touch at a vertex are parted there. Where triangles
    are not consistently oriented, walks may end early: they are given as they are.
    """
    n_vertices = int(faces.max(initial=-1)) + 1
    return _boundary_loops(faces, _Edges(faces, n_vertices))


def flipped_triangles(
    vertices: Float[ndarray, "n_vertices 3"],
    reference_vertices: Float[ndarray, "n_vertices 3"],
    faces: Int64[ndarray, "n_faces 3"],
    region: Bool[ndarray, " n_vertices"] | None = None,
    *,
    fold_rad: float = 2 * np.pi / 3,
) -> Int64[ndarray, " n_flipped"]:
    """Give the triangles that folded over against a neighbour, while the reference has no fold there.

    At an edge that is bent by more than `fold_rad`, and by 45 degrees more than in the reference, the triangle that
    agrees less with its surroundings is the flipped one. Only triangles inside the region count.
    """
    one, other = _neighbours(faces, len(vertices))
    normal, area = face_normals(vertices, faces)
    reference = face_normals(reference_vertices, faces)[0]
    bend = _angle(normal[one], normal[other])
    new = (bend > fold_rad) & (bend > _angle(reference[one], reference[other]) + np.pi / 4)
    one, other = one[new], other[new]
    agreement = _agreement(normal, area, faces, len(vertices))
    flipped = np.unique(np.where(agreement[one] < agreement[other], one, other))
    if region is not None:
        flipped = flipped[region[faces[flipped]].all(axis=1)]
    return flipped


class _Edges:
    """Half-edges sorted so that those of one undirected edge are neighbours; half-edge h leaves corner h."""

    def __init__(self, faces: ndarray, n_vertices: int) -> None:
        if len(faces) and (faces.min() < 0 or faces.max() >= n_vertices):
            raise ValueError(f"faces name vertices {faces.min()} to {faces.max()}; there are {n_vertices}")
        faces = np.ascontiguousarray(faces, np.int64)
        start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
        low, high = np.minimum(start, end), np.maximum(start, end)
        self.order = _order_by(low, _order_by(high, np.arange(len(low)), n_vertices), n_vertices)
        self.sorted_key = (low * max(n_vertices, 1) + high)[self.order]
        is_first = np.ones(len(low), bool)
        is_first[1:] = self.sorted_key[1:] != self.sorted_key[:-1]
        self.first = np.flatnonzero(is_first)
        self.count = np.diff(np.append(self.first, len(low)))
        forward = np.where(start < end, 1, -1)[self.order]
        pair = self.count == 2
        self.misoriented = np.zeros(len(self.count), bool)
        self.misoriented[pair] = forward[self.first[pair]] == forward[self.first[pair] + 1]

    def half_edges_with(self, edges: ndarray, position: int = 0) -> ndarray:
        """Give the half-edge at a position among those of each selected edge."""
        return self.order[self.first[edges] + position]


def _nonmanifold_vertices(faces: ndarray, n_vertices: int, edges: _Edges) -> ndarray:
    # Corners of one vertex are joined across each edge; a single fan leaves one group a vertex.
    first, second = edges.order[:-1], edges.order[1:]
    joined = edges.sorted_key[:-1] == edges.sorted_key[1:]
    first, second = first[joined], second[joined]
    start, end = _corners_of(first)
    other_start, other_end = _corners_of(second)
    same = faces.ravel()[start] == faces.ravel()[other_start]
    pairs = np.concatenate(
        [
            np.stack([start, np.where(same, other_start, other_end)], axis=1),
            np.stack([end, np.where(same, other_end, other_start)], axis=1),
        ]
    )
    group = connected_components(pairs[:, [0, 1, 1]], faces.size)
    # Each group once, at its first corner.
    first_corner = np.flatnonzero(np.diff(np.maximum.accumulate(group), prepend=-1))
    vertex_of_group = faces.ravel()[first_corner]
    return np.bincount(vertex_of_group, minlength=n_vertices) > 1


def _boundary_loops(faces: ndarray, edges: _Edges) -> list[ndarray]:
    start, end = _corners_of(edges.half_edges_with(edges.count == 1))
    corner = faces.ravel()
    following: dict[int, list[int]] = {}
    for a, b in zip(corner[start].tolist(), corner[end].tolist(), strict=True):
        following.setdefault(a, []).append(b)
    loops: list[ndarray] = []
    for a in sorted(following):
        while following[a]:
            loops.extend(np.array(loop, np.int64) for loop in _walk(a, following))
    return sorted(loops, key=lambda loop: (-len(loop), loop[0]))


def _corners_of(half_edge: ndarray) -> tuple[ndarray, ndarray]:
    return half_edge, half_edge - half_edge % 3 + (half_edge + 1) % 3


def _neighbours(faces: ndarray, n_vertices: int) -> tuple[ndarray, ndarray]:
    edges = _Edges(faces, n_vertices)
    pair = (edges.count == 2) & ~edges.misoriented
    return edges.half_edges_with(pair) // 3, edges.half_edges_with(pair, 1) // 3


def _angle(a: ndarray, b: ndarray) -> ndarray:
    return np.arccos(np.clip((a * b).sum(axis=1), -1.0, 1.0))


def _agreement(normal: ndarray, area: ndarray, faces: ndarray, n_vertices: int) -> ndarray:
    # Cosine between a triangle's normal and the area-weighted mean of the others around its corners.
    weighted = normal * area[:, None]
    at_vertex = np.stack(
        [np.bincount(faces.ravel(), np.repeat(weighted[:, k], 3), minlength=n_vertices) for k in range(3)], axis=1
    )
    around = at_vertex[faces].sum(axis=1) - 3 * weighted
    length = np.linalg.norm(around, axis=1)
    return (normal * around).sum(axis=1) / np.maximum(length, 1e-300)


def _signed_volume(vertices: ndarray, faces: ndarray) -> float:
    # From the middle, so that a mesh far from the origin loses no digits.
    a, b, c = np.moveaxis((vertices - vertices[faces[0, 0]])[faces], 1, 0)
    return float((a * np.cross(b, c)).sum() / 6)


def _walk(start: int, following: dict[int, list[int]]) -> list[list[int]]:
    # A walk that comes back to one of its own vertices has closed a loop there.
    loops, path, place = [], [start], {start: 0}
    while following.get(path[-1]):
        vertex = following[path[-1]].pop()
        if vertex in place:
            loop = path[place[vertex] :]
            loops.append(loop)
            for passed in loop[1:]:
                del place[passed]
            del path[place[vertex] + 1 :]
        else:
            place[vertex] = len(path)
            path.append(vertex)
    if len(path) > 1:
        loops.append(path)
    return loops


@njit("i8[::1](i8[::1], i8[::1], i8)", cache=True, nogil=True)
def _order_by(key, order, n_keys):
    # Stable counting sort.
    place = np.zeros(n_keys + 1, np.int64)
    for i in range(len(key)):
        place[key[i] + 1] += 1
    for k in range(n_keys):
        place[k + 1] += place[k]
    out = np.empty(len(key), np.int64)
    for i in order:
        out[place[key[i]]] = i
        place[key[i]] += 1
    return out


@njit("b1[::1](f8[:,::1], i8[:,::1])", cache=True, nogil=True)
def _degenerate(vertices, faces):
    out = np.empty(len(faces), np.bool_)
    for i in range(len(faces)):
        a, b, c = vertices[faces[i, 0]], vertices[faces[i, 1]], vertices[faces[i, 2]]
        ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
        vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
        wx, wy, wz = ux - vx, uy - vy, uz - vz
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        longest_sq = max(ux * ux + uy * uy + uz * uz, vx * vx + vy * vy + vz * vz, wx * wx + wy * wy + wz * wz)
        out[i] = np.sqrt(x * x + y * y + z * z) <= _DEGENERATE_HEIGHT * longest_sq
    return out
