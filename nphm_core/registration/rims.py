"""Parts of the template that face each other and must not cross: upper and lower lip, upper and lower lid of an eye."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.geometry.subdivision import Subdivision, subdivide_linearly
from nphm_core.spaces import align_points

_PATCH_MM = 12.0
_N_PLACES = 24


@dataclass(frozen=True)
class RimPair:
    """Two parts of the template that face each other, as weights of its vertices."""

    upper: Float[ndarray, " n"]
    """1 in the upper patch, 0 outside; at finer levels, values between at the patch's edge."""
    lower: Float[ndarray, " n"]
    upper_rim: Float[ndarray, " n"]
    """1 on the rim itself: where the patch turns from the visible side to the hidden one."""
    lower_rim: Float[ndarray, " n"]
    neutral: Float[ndarray, "n 3"]
    """Vertices of the upright, neutral template, mm."""

    def subdivided(self, step: Subdivision) -> "RimPair":
        """Give the patches on the next finer level."""
        rims = (subdivide_linearly([step], values) for values in (self.upper_rim, self.lower_rim, self.neutral))
        return RimPair(step.matrix @ self.upper, step.matrix @ self.lower, *rims)

    def part(self, index: Int[ndarray, " m"]) -> "RimPair":
        """Give the patches among some vertices."""
        return RimPair(*(getattr(self, field.name)[index] for field in fields(self)))

    def opening(self, vertices: Float[ndarray, "n 3"]) -> Float[ndarray, " 3"]:
        """Give the direction in which the upper side leaves the lower one, on a posed mesh: the neutral's +y."""
        near = np.maximum(self.upper, self.lower) > 0.5
        turn = align_points(self.neutral[near], vertices[near], with_scale=False).rotation
        return turn @ np.array([0.0, 1.0, 0.0])

    def overlaps(self, vertices: Float[ndarray, "n 3"], opening: Float[ndarray, " 3"]) -> Float[ndarray, " n"]:
        """Give how far each rim vertex lies beyond the other rim, against the opening; 0 elsewhere.

        Rims are compared at the same place between the corners. Lips may lie so without crossing (an overbite).
        """
        height, across = vertices @ opening, self.neutral[:, 0]
        rims = [np.flatnonzero(rim > 0.99) for rim in (self.upper_rim, self.lower_rim)]
        out = np.zeros(len(vertices))
        if min(len(rim) for rim in rims) < 4:
            return out
        for own, other, sign in ((rims[0], rims[1], 1.0), (rims[1], rims[0], -1.0)):
            places = np.linspace(across[other].min(), across[other].max(), _N_PLACES)
            # The rim is a strip: its mean height counts.
            near = np.exp(-0.5 * ((across[other] - places[:, None]) / (places[1] - places[0])) ** 2)
            line = near @ height[other] / near.sum(1)
            gap = sign * (height[own] - np.interp(across[own], places, line))
            inside = (across[own] > places[0]) & (across[own] < places[-1])
            out[own] = np.where(inside, np.maximum(-gap, 0.0), 0.0)
        return out


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
    found = [(above, below) for above, below in sets if above.any() and below.any()]
    return tuple(
        RimPair(*_patches(vertices_mm, faces, above, below), above.astype(float), below.astype(float), vertices_mm)
        for above, below in found
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
