"""Folds that the linear fit brought along: triangles folded over where the template itself has no fold.

Around each fold the template's own shape is put in place, turned and scaled as the surroundings are, and bent to meet
them by harmonic interpolation of what is left between the two. Where lids or lips are squeezed so much that this folds
again, the place is stretched flat between its surroundings instead. Nothing but the surroundings of a fold moves.
Positions in mm.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.geometry.components import connected_components
from nphm_core.geometry.quality import flipped_triangles
from nphm_core.spaces import align_points

_SHAPE, _FLAT = True, False
_ROUNDS = (
    (_SHAPE, 2), (_SHAPE, 3), (_SHAPE, 4), (_FLAT, 1), (_FLAT, 2), (_FLAT, 3), (_FLAT, 1), (_FLAT, 2),
)  # fmt: skip
"""How each round mends what is still folded, and how many rings of triangles around it give way."""
_FRESH_STARTS = range(1, 18)
"""Rings that get the template's shape, folds or not, to go on from there: the way out of a place that is stuck."""
_AFTER_START = (
    (_FLAT, 1), (_FLAT, 2), (_SHAPE, 2), (_SHAPE, 3), (_FLAT, 3), (_FLAT, 1), (_FLAT, 4), (_SHAPE, 5), (_FLAT, 2),
    (_FLAT, 1),
)  # fmt: skip
_RIM_RINGS = 2
"""A region of vertices ends within the lids' and the lips' rims, whose triangles have some corners beyond it."""
_RINGS = 24
"""Surroundings that are looked at; what gives way stays well inside."""
_MARGIN_RINGS = 4
"""Beyond what gives way, so that the part's border takes no part in a round."""
_RELAX_STEPS = 200
_MIN_RIM = 6


def unfold(
    vertices: Float[ndarray, "n 3"],
    template: Float[ndarray, "n 3"],
    faces: Int[ndarray, "n_faces 3"],
    region: Bool[ndarray, " n"],
) -> tuple[Float[ndarray, "n 3"], Bool[ndarray, " n"]]:
    """Take out the folds inside a region and at its rim, and mark the vertices that moved.

    `template` is the template's shape in the same topology, in any place and size. What cannot be unfolded in a few
    rounds stays; where a round does not take out folds, it is not kept.
    """
    region = _grown(region, faces, _RIM_RINGS)
    folded = flipped_triangles(vertices, template, faces, region)
    if not len(folded):
        return vertices, np.zeros(len(vertices), bool)
    index, place = _Place(vertices, template, faces, region).around(folded, _RINGS)
    out = np.array(vertices)
    out[index] = _mended(place).vertices
    if len(flipped_triangles(out, template, faces, region)) >= len(folded):
        return vertices, np.zeros(len(vertices), bool)
    return out, (out != vertices).any(axis=1)


@dataclass(frozen=True)
class _Place:
    """The surroundings of all folds."""

    vertices: Float[ndarray, "n 3"]
    template: Float[ndarray, "n 3"]
    faces: Int[ndarray, "m 3"]
    region: Bool[ndarray, " n"]

    def folded(self) -> Int[ndarray, " k"]:
        return flipped_triangles(self.vertices, self.template, self.faces, self.region)

    def around(self, folded: ndarray, rings: int) -> "tuple[ndarray, _Place]":
        """Give the part around folds, and its vertices' numbers; the whole mesh takes a quarter of a second a look."""
        near = np.zeros(len(self.vertices), bool)
        near[self.faces[folded]] = True
        near = _grown(near, self.faces, rings)
        index, corners = np.unique(self.faces[near[self.faces].all(axis=1)], return_inverse=True)
        return index, _Place(self.vertices[index], self.template[index], corners.reshape(-1, 3), self.region[index])


def _grown(chosen: Bool[ndarray, " n"], faces: Int[ndarray, "m 3"], rings: int) -> Bool[ndarray, " n"]:
    out = np.array(chosen)
    for _ in range(rings):
        out[faces[out[faces].any(axis=1)]] = True
    return out


def _mended(place: _Place) -> _Place:
    place = _improved(place, _ROUNDS)
    folded = place.folded()
    if len(folded):
        index, part = place.around(folded, _RINGS)
        vertices = np.array(place.vertices)
        vertices[index] = _restarted(part).vertices
        place = replace(place, vertices=vertices)
    return place


def _restarted(place: _Place) -> _Place:
    """Mend what is stuck by giving a wider place the template's shape first."""
    n_left = len(place.folded())
    for rings in _FRESH_STARTS:
        if not n_left:
            break
        start, _ = _reshaped(place, place.folded(), _SHAPE, rings)
        trial = _improved(start, _AFTER_START)
        n_trial = len(trial.folded())
        if n_trial < n_left:
            place, n_left = trial, n_trial
    return place


def _improved(place: _Place, rounds: Iterable[tuple[bool, int]]) -> _Place:
    folded = place.folded()
    for keeps_shape, rings in rounds:
        if not len(folded):
            break
        index, part = place.around(folded, rings + _MARGIN_RINGS)
        better = _round(part, keeps_shape, rings)
        if better is not part:
            vertices = np.array(place.vertices)
            vertices[index] = better.vertices
            place = replace(place, vertices=vertices)
            folded = place.folded()
    return place


def _round(place: _Place, keeps_shape: bool, rings: int) -> _Place:
    """Reshape the patches around folds and keep those that have fewer then; the same place if that helps nowhere."""
    folded = place.folded()
    trial, patches = _reshaped(place, folded, keeps_shape, rings)
    left, vertices = trial.folded(), np.array(place.vertices)
    for patch in patches:
        before, after = (patch[place.faces[some]].any(axis=1).sum() for some in (folded, left))
        if after < before:
            vertices[patch] = trial.vertices[patch]
    better = replace(place, vertices=vertices)
    return better if len(better.folded()) < len(folded) else place


def _reshaped(place: _Place, folded: ndarray, keeps_shape: bool, rings: int) -> tuple[_Place, list[ndarray]]:
    """Reshape the patches around folds, and mark the vertices that may move in each of them."""
    inside = np.zeros(len(place.vertices), bool)
    inside[place.faces[folded]] = True
    inside = _grown(inside, place.faces, rings - 1)
    around = place.faces[inside[place.faces].any(axis=1)]
    label = connected_components(np.ascontiguousarray(around), len(inside))
    out, patches = np.array(place.vertices), []
    for number in np.unique(label[around[:, 0]]):
        part = around[label[around[:, 0]] == number]
        index = np.unique(part)
        rim = index[~inside[index]]
        if len(rim) < _MIN_RIM:
            continue
        shape = np.zeros((len(index), 3))
        if keeps_shape:
            shape = align_points(place.template[rim], place.vertices[rim]).apply(place.template[index])
        out[index] = shape + _harmonic(place.vertices[index] - shape, inside[index], index, part)
        patches.append(np.isin(np.arange(len(inside)), index) & inside)
    return replace(place, vertices=out), patches


def _harmonic(
    rest: Float[ndarray, "n 3"], free: Bool[ndarray, " n"], index: Int[ndarray, " n"], faces: Int[ndarray, "m 3"]
) -> Float[ndarray, "n 3"]:
    """Interpolate values from the rim to the free vertices, each the mean of its neighbours (Jacobi steps)."""
    corners = np.searchsorted(index, faces)
    ends = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
    ends = np.unique(np.concatenate([ends, ends[:, ::-1]]), axis=0)
    count = np.maximum(np.bincount(ends[:, 0], minlength=len(index)), 1)[:, None]
    out = np.where(free[:, None], rest[~free].mean(axis=0), rest)
    for _ in range(_RELAX_STEPS):
        mean = np.stack([np.bincount(ends[:, 0], out[ends[:, 1], axis], len(index)) for axis in range(3)], axis=1)
        out = np.where(free[:, None], mean / count, rest)
    return out
