"""Lips and eyelids that must not cross, and triangles that must not flip.

Lips and lids (see `rims`) cross where a triangle of one side passes through one of the other. The vertices around
that lie behind the other side lose their correspondences and are pushed out, half the way from either side. A
triangle has flipped if it has folded against a neighbour, unlike in the rest pose; the vertices around it lose their
correspondences and it becomes stiffer, in growing neighbourhoods. Only the surroundings of a fault move. Positions in
mm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numba import njit
from numpy import ndarray

from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.intersections import self_intersections
from nphm_core.geometry.mesh import boundary_vertices, vertex_normals
from nphm_core.registration.arap_level import RigidLevel
from nphm_core.registration.correspondences import Correspondences, border_hits
from nphm_core.registration.rims import RimPair

_REACH_MM = 4.0
"""Deeper than this is no crossing but another side of the head."""
_CLEARANCE_MM = 0.05
_OPENING_MM = 0.03
"""What a crossing does not give way to by itself is opened by this much more in every round."""
_SURE_WEIGHT = 0.5
_LOST_MM = 0.3
_GENTLE = range(8)
"""Rounds in which vertices that follow the scan closely stay with it: the hidden side of a lip gives way first."""
_REORDERING = range(8, 12)
"""Rounds that put rims in order again that have passed each other."""
_PUSHING = range(12, 16)
"""Rounds in which whatever crosses is pushed apart; then, folds alone are relaxed."""
_ALONG_MM = 1.0
_LOOSE_RINGS = 3
_PUSH_WEIGHT = 10.0
_ROUNDS = 18
_PASSES = 2
_RINGS = 10
"""Triangles around a fault that may move with it."""
_HOLD_WEIGHT = 1000.0
_FLIP_STIFFNESS = 4.0
_MOST_RINGS = 4
# A fold: neighbours at more than 115 degrees, and 40 degrees more than in the rest pose.
_FOLD_RAD, _FOLD_MORE_RAD = np.radians(115.0), np.radians(40.0)


@dataclass(frozen=True)
class Repaired:
    """Positions, and what is wrong with them."""

    vertices: Float[ndarray, "n 3"]
    data: Correspondences
    """What is left of the correspondences."""
    n_flipped: int
    """Triangles."""
    n_crossed: int
    """Pairs of triangles of opposite lips or lids."""
    faults: Bool[ndarray, " n_faces"]
    """Triangles that have flipped or cross."""
    crossings: tuple[Int[ndarray, "n_pairs 2"], ...]
    """The crossing pairs of triangles, for each pair of rims."""
    n_lost: int
    """Vertices that followed the scan closely before the repair, and no longer do."""

    @property
    def badness(self) -> int:
        """Tell which of two states is better: crossings mostly hide within the mouth, the other two can be seen."""
        return 100 * self.n_flipped + self.n_lost + self.n_crossed


def repair(
    level: RigidLevel,
    vertices: Float[ndarray, "n 3"],
    data: Correspondences,
    stiffness: float,
    pairs: Sequence[RimPair],
) -> Repaired:
    """Relax a registered mesh around what crosses or has flipped; nothing else moves."""
    whole = _Patch(level, data, np.zeros(len(vertices), bool), pairs)
    state = _judged(whole, vertices, data)
    for _ in range(_PASSES):
        before = state.badness
        if not state.faults.any():
            break
        state = _relaxed_around(whole, state, stiffness)
        if state.badness > before // 2:
            break
    return state


class _Patch:
    """A part of the mesh, or all of it, and what is to be preserved of it."""

    def __init__(self, level: RigidLevel, data: Correspondences, held: ndarray, pairs: Sequence[RimPair]) -> None:
        self.level = level
        self.original = data
        self.free = ~held
        self.sure = (data.weights > _SURE_WEIGHT) & self.free
        self.pairs = pairs
        self.neighbours = _face_neighbours(level)

    def part(self, faces: Bool[ndarray, " n_faces"], pairs: Sequence[RimPair]) -> "tuple[_Patch, ndarray]":
        """Give the part with some faces, its border held, and its vertices' numbers."""
        index, corners = np.unique(self.level.faces[faces], return_inverse=True)
        held = np.zeros(len(self.free), bool)
        held[self.level.faces[~faces]] = True
        level = RigidLevel(self.level.rest[index], corners.reshape(-1, 3))
        parts = [pair.part(index) for pair in pairs]
        return _Patch(level, self.original.at(index), held[index], parts), index


def _judged(patch: _Patch, vertices: ndarray, data: Correspondences) -> Repaired:
    level = patch.level
    faults = flipped_faces(vertices, level.rest, level.faces, patch.neighbours)
    n_flipped = int(faults.sum())
    crossings = tuple(crossing_faces(vertices, level.faces, pair) for pair in patch.pairs)
    for crossing in crossings:
        faults[crossing.ravel()] = True
    along = ((vertices - patch.original.points) * patch.original.normals).sum(1)
    n_lost = int((patch.sure & (np.abs(along) > _LOST_MM)).sum())
    return Repaired(vertices, data, n_flipped, sum(len(c) for c in crossings), faults, crossings, n_lost)


def _relaxed_around(whole: _Patch, state: Repaired, stiffness: float) -> Repaired:
    wrong = state.faults
    for _ in range(_RINGS):
        wrong = _grown(wrong, whole.level.faces, len(state.vertices))
    crossed = [pair for pair, crossing in zip(whole.pairs, state.crossings, strict=True) if len(crossing)]
    patch, index = whole.part(wrong, crossed)
    start = state.vertices[index]
    relaxed = _relaxed(patch, start, _held(state.data.at(index), start, ~patch.free), stiffness)
    vertices = np.array(state.vertices)
    vertices[index] = relaxed.vertices
    data = state.data.with_others(index[patch.free], relaxed.data.at(np.flatnonzero(patch.free)))
    return _judged(whole, vertices, data)


def _held(data: Correspondences, vertices: ndarray, held: ndarray) -> Correspondences:
    return replace(
        data,
        points=np.where(held[:, None], vertices, data.points),
        point_weights=np.where(held, _HOLD_WEIGHT, data.point_weights),
    )


def _relaxed(patch: _Patch, vertices: ndarray, data: Correspondences, stiffness: float) -> Repaired:
    level = patch.level
    touched = np.zeros(len(level.faces), bool)
    best = state = _judged(patch, vertices, data)
    for round_ in range(_ROUNDS + 1):
        if state.badness < best.badness:
            best = state
        if round_ == _ROUNDS or not state.faults.any():
            break
        for pair, crossing in zip(patch.pairs, state.crossings, strict=True):
            if len(crossing):
                data = _apart(patch, data, vertices, pair, crossing, round_)
        if state.n_flipped:
            fresh = _around_folds(patch, vertices, round_) & ~touched
            touched |= fresh
            level.stiffen(fresh, _FLIP_STIFFNESS)
            data = _without(data, touched, level.faces, patch.free)
        for refit in (not state.n_flipped, True):
            vertices, _ = level.solve(vertices, data, stiffness, refit=refit)
        state = _judged(patch, vertices, data)
    return best


def _around_folds(patch: _Patch, vertices: ndarray, round_: int) -> ndarray:
    """Mark the faces around folds; the later the round, the more of them."""
    out = flipped_faces(vertices, patch.level.rest, patch.level.faces, patch.neighbours)
    for _ in range(1 + min(round_, _MOST_RINGS)):
        out = _grown(out, patch.level.faces, len(vertices))
    return out


def _apart(
    patch: _Patch, data: Correspondences, vertices: ndarray, pair: RimPair, crossing: ndarray, round_: int
) -> Correspondences:
    """Give the data that move a crossing apart: more and more firmly, as the rounds go on."""
    faces = patch.level.faces
    if round_ in _GENTLE:
        # The other side stays, so these go the whole way.
        opening_mm = _OPENING_MM * (round_ - _GENTLE.start)
        return _pushed(data, vertices, faces, pair, crossing, patch.free & ~patch.sure, opening_mm, share=1.0)
    if round_ in _REORDERING:
        return _reordered(data, vertices, faces, pair, crossing, patch.free)
    if round_ in _PUSHING:
        opening_mm = _OPENING_MM * (round_ - _PUSHING.start)
        return _pushed(data, vertices, faces, pair, crossing, patch.free, opening_mm, share=0.5)
    return data


def flipped_faces(
    vertices: Float[ndarray, "n 3"],
    rest: Float[ndarray, "n 3"],
    faces: Int[ndarray, "n_faces 3"],
    neighbours: Int[ndarray, "n_faces 3"],
) -> Bool[ndarray, " n_faces"]:
    """Mark triangles that have folded against a neighbour (-1: none) and had not at rest.

    A patch that has turned over has a fold around it.
    """
    out = np.zeros(len(faces), bool)
    _mark_flipped(_normals(vertices, faces), _normals(rest, faces), neighbours, out)
    return out


def crossing_faces(
    vertices: Float[ndarray, "n 3"], faces: Int[ndarray, "n_faces 3"], pair: RimPair
) -> Int[ndarray, "n_pairs 2"]:
    """Give the pairs of triangles of the two sides that pass through each other."""
    upper, lower = (side[faces].min(1) > 0.5 for side in (pair.upper, pair.lower))
    index = np.flatnonzero(upper | lower)
    found = index[self_intersections(vertices, faces[index])]
    return found[upper[found[:, 0]] != upper[found[:, 1]]]


def crossing_depths(
    vertices: Float[ndarray, "n 3"], faces: Int[ndarray, "n_faces 3"], pair: RimPair
) -> tuple[Float[ndarray, " n"], Float[ndarray, "n 3"]]:
    """Give how far each vertex lies behind the patch that faces it, and that patch's normal there.

    0 and a zero normal where a vertex lies before it, too far away, or beside it.
    """
    depth, normal = np.zeros(len(vertices)), np.zeros_like(vertices)
    upper, lower = pair.upper > 0.5, pair.lower > 0.5
    for own, other in ((upper, lower), (lower, upper)):
        rows = faces[other[faces].all(1)]
        points = np.flatnonzero(own)
        if not len(rows) or not len(points):
            continue
        used, patch = np.unique(rows, return_inverse=True)
        patch = patch.reshape(-1, 3)
        found = ClosestPoints(vertices[used], patch).query(vertices[points], _REACH_MM)
        border = boundary_vertices(len(used), patch)
        inside = (found.face >= 0) & ~border_hits(patch, border, found.face, found.barycentric)
        points, corners, weights = points[inside], patch[found.face[inside]], found.barycentric[inside]
        direction = (weights[:, :, None] * vertex_normals(vertices[used], patch)[corners]).sum(1)
        direction /= np.maximum(np.linalg.norm(direction, axis=1), 1e-12)[:, None]
        behind = -((vertices[points] - found.point[inside]) * direction).sum(1)
        keep = behind > 0
        depth[points[keep]], normal[points[keep]] = behind[keep], direction[keep]
    return depth, normal


def _pushed(
    data: Correspondences,
    vertices: ndarray,
    faces: ndarray,
    pair: RimPair,
    crossing: ndarray,
    free: ndarray,
    opening_mm: float,
    *,
    share: float,
) -> Correspondences:
    """Push what lies behind the other side out of it."""
    depth, normal = crossing_depths(vertices, faces, pair)
    behind = depth > 0
    # Only what hangs together with a crossing: elsewhere, behind the other side may be the right place.
    chosen = np.zeros(len(vertices), bool)
    chosen[faces[crossing.ravel()]] = True
    size = -1
    while chosen.sum() != size:
        size = chosen.sum()
        near = faces[(chosen[faces].any(1)) & behind[faces].any(1)]
        chosen[near[behind[near]]] = True
    chosen &= free
    side = np.where(pair.upper > pair.lower, opening_mm, -opening_mm)[:, None]
    away = side * pair.opening(vertices) + ((share * depth + _CLEARANCE_MM) * behind)[:, None] * normal
    return _moved(data, vertices, away, chosen & (np.abs(away).sum(1) > 0), chosen)


def _reordered(
    data: Correspondences, vertices: ndarray, faces: ndarray, pair: RimPair, crossing: ndarray, free: ndarray
) -> Correspondences:
    """Move rims that have passed each other back, and let what is around them follow."""
    opening = pair.opening(vertices)
    place = pair.neutral[faces[crossing.ravel()], 0]
    near = (pair.neutral[:, 0] > place.min() - _ALONG_MM) & (pair.neutral[:, 0] < place.max() + _ALONG_MM) & free
    overlap = pair.overlaps(vertices, opening) * near
    rims = (np.maximum(pair.upper_rim, pair.lower_rim) > 0.99) & near & (overlap > 0)
    side = np.where(pair.upper_rim > pair.lower_rim, 1.0, -1.0)
    loose = np.zeros(len(vertices), bool)
    loose[faces[crossing.ravel()]] = True
    loose[rims] = True
    for _ in range(_LOOSE_RINGS):
        loose[faces[loose[faces].any(1)]] = True
    away = (side * (0.5 * overlap + _CLEARANCE_MM))[:, None] * opening
    return _moved(data, vertices, away, rims, loose & free)


def _moved(data: Correspondences, vertices: ndarray, away: ndarray, moved: ndarray, loose: ndarray) -> Correspondences:
    mark = moved[:, None]
    normal = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
    return replace(
        data,
        points=np.where(mark, vertices + away, data.points),
        normals=np.where(mark, normal, data.normals),
        weights=np.where(moved, _PUSH_WEIGHT, np.where(loose, 0.0, data.weights)),
        point_weights=np.where(moved | loose, 0.0, data.point_weights),
    )


def _without(data: Correspondences, touched: ndarray, faces: ndarray, free: ndarray) -> Correspondences:
    loose = np.zeros(len(data.weights), bool)
    loose[faces[touched]] = True
    loose &= free
    return replace(
        data, weights=np.where(loose, 0.0, data.weights), point_weights=np.where(loose, 0.0, data.point_weights)
    )


def _grown(chosen: ndarray, faces: ndarray, n_vertices: int) -> ndarray:
    near = np.zeros(n_vertices, bool)
    near[faces[chosen]] = True
    return near[faces].any(1)


def _face_neighbours(level: RigidLevel) -> ndarray:
    # The neighbour at an edge walks it the other way round.
    slots = level.around.face_slots
    owner = np.full(len(level.around.neighbours), -1)
    owner[slots[:, ::2]] = np.arange(len(slots))[:, None]
    return owner[slots[:, 1::2]]


@njit(cache=True, nogil=True)
def _normals(vertices, faces):
    out = np.zeros((len(faces), 3))
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        length = np.sqrt(x * x + y * y + z * z)
        if length > 0.0:
            out[f, 0], out[f, 1], out[f, 2] = x / length, y / length, z / length
    return out


@njit(cache=True, nogil=True)
def _dot(a, i, b, j):
    return a[i, 0] * b[j, 0] + a[i, 1] * b[j, 1] + a[i, 2] * b[j, 2]


@njit(cache=True, nogil=True)
def _mark_flipped(normals, rest_normals, neighbours, out):
    limit = np.cos(_FOLD_RAD)
    for f in range(len(normals)):
        for k in range(3):
            g = neighbours[f, k]
            if g > f:
                bent = _dot(normals, f, normals, g)
                if bent < limit:
                    before = _dot(rest_normals, f, rest_normals, g)
                    if np.arccos(max(bent, -1.0)) > np.arccos(min(max(before, -1.0), 1.0)) + _FOLD_MORE_RAD:
                        out[f] = out[g] = True
