"""Folds that the linear fit brought along: triangles folded over where the template itself has no fold.

Around each fold the template's own shape is put in place, turned and scaled as the surroundings are, and bent to meet
them by harmonic interpolation of what is left between the two. Nothing but the surroundings of a fold moves. Positions
in mm.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.geometry.components import connected_components
from nphm_core.geometry.quality import flipped_triangles
from nphm_core.spaces import align_points

_RINGS = (2, 3, 4)
"""Neighbourhood that each round gives way: wider where a narrower one did not help."""
_RELAX_STEPS = 200
_MIN_RIM = 6


def unfold(
    vertices: Float[ndarray, "n 3"],
    template: Float[ndarray, "n 3"],
    faces: Int[ndarray, "n_faces 3"],
    region: Bool[ndarray, " n"],
) -> tuple[Float[ndarray, "n 3"], Bool[ndarray, " n"]]:
    """Take out the folds inside a region, and mark the vertices that moved.

    `template` is the template's shape in the same topology, in any place and size. What cannot be unfolded in a few
    rounds stays; a round that makes more folds than it takes out is not kept.
    """
    out, moved = vertices, np.zeros(len(vertices), bool)
    folded = flipped_triangles(out, template, faces, region)
    for rings in _RINGS:
        if not len(folded):
            break
        trial, changed = _reshaped(out, template, faces, folded, rings)
        left = flipped_triangles(trial, template, faces, region)
        if len(left) < len(folded):
            out, moved, folded = trial, moved | changed, left
    return out, moved


def _reshaped(
    vertices: ndarray, template: ndarray, faces: ndarray, folded: ndarray, rings: int
) -> tuple[ndarray, ndarray]:
    inside = np.zeros(len(vertices), bool)
    inside[faces[folded]] = True
    for _ in range(rings - 1):
        inside[faces[inside[faces].any(axis=1)]] = True
    around = faces[inside[faces].any(axis=1)]
    label = connected_components(np.ascontiguousarray(around), len(vertices))
    out = np.array(vertices)
    for patch in np.unique(label[around[:, 0]]):
        part = around[label[around[:, 0]] == patch]
        index = np.unique(part)
        rim = index[~inside[index]]
        if len(rim) >= _MIN_RIM:
            pose = align_points(template[rim], vertices[rim])
            shape = pose.apply(template[index])
            out[index] = shape + _harmonic(vertices[index] - shape, inside[index], index, part)
    return out, inside


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
