"""Lips and eyelids that must not cross, and triangles that must not flip.

Two rims that face each other (upper and lower lip, upper and lower lid of an eye) each own a patch of the template.
They cross where a vertex of one patch lies behind the other's surface, deeper than it does in the rest pose. Such
vertices lose their correspondences and are pushed out, half the way from either side. Flipped triangles lose the
correspondences around them and become stiffer, in growing neighbourhoods. Positions in mm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import boundary_vertices, face_normals, vertex_normals
from nphm_core.geometry.subdivision import Subdivision
from nphm_core.registration.arap_level import RigidLevel
from nphm_core.registration.correspondences import Correspondences, border_hits

_PATCH_MM = 12.0
_REACH_MM = 4.0
"""Deeper than this is no crossing but another side of the head."""
_TOLERANCE_MM = 0.05
_PUSH_WEIGHT = 10.0
_CROSSING_ROUNDS = 4
_FLIP_ROUNDS = 8
_FLIP_STIFFNESS = 4.0


@dataclass(frozen=True)
class RimPair:
    """Two parts of the template that face each other, as weights of its vertices."""

    upper: Float[ndarray, " n"]
    """1 in the upper patch, 0 outside; at finer levels, values between at the patch's edge."""
    lower: Float[ndarray, " n"]

    def subdivided(self, step: Subdivision) -> "RimPair":
        """Give the patches on the next finer level."""
        return RimPair(step.matrix @ self.upper, step.matrix @ self.lower)


def rim_pairs(
    vertices_mm: Float[ndarray, "n 3"], faces: Int[ndarray, "n_faces 3"], regions: dict[str, Bool[ndarray, " n"]]
) -> tuple[RimPair, ...]:
    """Find the lips' and the eyelids' patches of an upright template, whichever of the regions it has.

    `eyelids` holds the rims of both lids of both eyes; they are told apart by the line through the eye's corners.
    """
    sets = []
    upper, lower = regions.get("lips_upper_rim"), regions.get("lips_lower_rim")
    if upper is not None and lower is not None:
        sets.append((upper & ~lower, lower & ~upper))
    lids = regions.get("eyelids")
    if lids is not None:
        sets += [_split_lids(vertices_mm, lids & (side * vertices_mm[:, 0] > 0)) for side in (-1, 1)]
    return tuple(
        RimPair(*_patches(vertices_mm, faces, above, below)) for above, below in sets if above.any() and below.any()
    )


def _split_lids(vertices: ndarray, lids: ndarray) -> tuple[ndarray, ndarray]:
    index = np.flatnonzero(lids)
    above, below = np.zeros(len(vertices), bool), np.zeros(len(vertices), bool)
    if len(index) < 4:
        return above, below
    x, y = vertices[index, 0], vertices[index, 1]
    left, right = x.argmin(), x.argmax()
    line = y[left] + (x - x[left]) / max(x[right] - x[left], 1e-9) * (y[right] - y[left])
    width = x[right] - x[left]
    inside = (x > x[left] + 0.1 * width) & (x < x[right] - 0.1 * width)
    above[index[inside & (y > line)]] = True
    below[index[inside & (y < line)]] = True
    return above, below


def _patches(vertices: ndarray, faces: ndarray, above: ndarray, below: ndarray) -> tuple[ndarray, ndarray]:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import dijkstra

    a, b = faces.ravel(), faces[:, [1, 2, 0]].ravel()
    length = np.linalg.norm(vertices[a] - vertices[b], axis=1)
    # Both directions of an inner edge carry its length; duplicates must not be summed.
    key, first = np.unique(np.minimum(a, b) * len(vertices) + np.maximum(a, b), return_index=True)
    graph = coo_matrix((length[first], np.divmod(key, len(vertices))), (len(vertices),) * 2).tocsr()
    up, down = (
        dijkstra(graph, directed=False, indices=np.flatnonzero(rim), min_only=True, limit=_PATCH_MM)
        for rim in (above, below)
    )
    return (up < down).astype(float), (down < up).astype(float)


def crossing_depths(
    vertices: Float[ndarray, "n 3"], faces: Int[ndarray, "n_faces 3"], pair: RimPair
) -> tuple[Float[ndarray, " n"], Float[ndarray, "n 3"]]:
    """Give how far each vertex lies behind the patch that faces it, and that patch's normal there.

    0 and a zero normal where nothing is crossed.
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
        inside = (found.face >= 0) & ~border_hits(
            patch, boundary_vertices(len(used), patch), found.face, found.barycentric
        )
        points, corners, weights = points[inside], patch[found.face[inside]], found.barycentric[inside]
        direction = (weights[:, :, None] * vertex_normals(vertices[used], patch)[corners]).sum(1)
        direction /= np.maximum(np.linalg.norm(direction, axis=1), 1e-12)[:, None]
        behind = -((vertices[points] - found.point[inside]) * direction).sum(1)
        keep = behind > 0
        depth[points[keep]], normal[points[keep]] = behind[keep], direction[keep]
    return depth, normal


def flipped_faces(
    vertices: Float[ndarray, "n 3"], rest: Float[ndarray, "n 3"], faces: Int[ndarray, "n_faces 3"]
) -> Bool[ndarray, " n_faces"]:
    """Mark triangles whose normal has turned by more than a right angle from the rest pose."""
    return (face_normals(vertices, faces)[0] * face_normals(rest, faces)[0]).sum(1) < 0


def uncross(
    level: RigidLevel,
    vertices: Float[ndarray, "n 3"],
    data: Correspondences,
    stiffness: float,
    pairs: Sequence[RimPair],
) -> tuple[Float[ndarray, "n 3"], Correspondences, int]:
    """Push crossed lips and lids apart; give positions, what is left of the data, and the vertices still crossed."""
    allowed = [crossing_depths(level.rest, level.faces, pair)[0] + _TOLERANCE_MM for pair in pairs]
    for round_ in range(_CROSSING_ROUNDS + 1):
        n_crossed = 0
        for pair, limit in zip(pairs, allowed, strict=True):
            depth, normal = crossing_depths(vertices, level.faces, pair)
            crossed = depth > limit
            n_crossed += int(crossed.sum())
            data = _pushed(data, vertices, crossed, (0.5 * (depth - limit) + _TOLERANCE_MM)[:, None] * normal, normal)
        if not n_crossed or round_ == _CROSSING_ROUNDS:
            break
        vertices, _ = level.solve(vertices, data, stiffness)
    return vertices, data, n_crossed


def unflip(
    level: RigidLevel, vertices: Float[ndarray, "n 3"], data: Correspondences, stiffness: float
) -> tuple[Float[ndarray, "n 3"], Correspondences, int]:
    """Relax around flipped triangles; give positions, what is left of the data, and the triangles still flipped."""
    touched = np.zeros(len(level.faces), bool)
    for round_ in range(_FLIP_ROUNDS + 1):
        flipped = flipped_faces(vertices, level.rest, level.faces)
        n_flipped = int(flipped.sum())
        if not n_flipped or round_ == _FLIP_ROUNDS:
            break
        touched = _grown(touched | flipped, level.faces, len(vertices))
        loose = np.zeros(len(vertices), bool)
        loose[level.faces[touched]] = True
        data = replace(
            data,
            weights=np.where(loose, 0.0, data.weights),
            point_weights=np.where(loose, 0.0, data.point_weights),
        )
        level.stiffen(np.where(touched, _FLIP_STIFFNESS, 1.0))
        for _ in range(2):
            vertices, _ = level.solve(vertices, data, stiffness)
    return vertices, data, n_flipped


def _grown(chosen: ndarray, faces: ndarray, n_vertices: int) -> ndarray:
    near = np.zeros(n_vertices, bool)
    near[faces[chosen]] = True
    return near[faces].any(1)


def _pushed(
    data: Correspondences, vertices: ndarray, crossed: ndarray, offset: ndarray, normal: ndarray
) -> Correspondences:
    mark = crossed[:, None]
    return replace(
        data,
        points=np.where(mark, vertices + offset, data.points),
        normals=np.where(mark, normal, data.normals),
        weights=np.where(crossed, _PUSH_WEIGHT, data.weights),
        point_weights=np.where(crossed, 0.0, data.point_weights),
    )
