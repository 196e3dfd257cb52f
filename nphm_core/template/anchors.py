"""NPHM's 39 anchors on any head template.

The mean anchors of the released model (Giebenhain et al., CVPR 2023, assets; 16 mirrored pairs, then 7 on the midline)
are brought to the template by a similarity on the anchors that are landmarks, corrected smoothly where those anchors
remain apart, and moved to the nearest vertex that can be seen. FLAME's own topology has its published vertices.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.errors import TemplateError
from nphm_core.spaces import align_points
from nphm_core.template.model import HeadModel
from nphm_core.template.symmetry import MirroredPairs
from nphm_core.template.template import N_ANCHORS, LandmarkEmbedding

FLAME_TOPOLOGY = (5023, 9976)
"""Vertices and triangles of FLAME."""

# fmt: off
FLAME_ANCHORS = (
    2712, 1579, 3485, 3756, 3430, 3659, 2711, 1575, 338, 27, 3631, 3832, 2437, 1175, 3092, 2057, 3422, 3649, 3162, 2143,
    617, 67, 3172, 2160, 2966, 1888, 1470, 2607, 1896, 2981, 3332, 3231, 3494, 3526, 3506, 3543, 3516, 3786, 3404,
)
"""Vertices of the 39 anchors in FLAME's topology."""
# fmt: on

# First of each pair, in NPHM units (250 mm); the subject's right but for the two pairs at the back.
_PAIR_MEANS = (
    (-0.096, -0.211, 0.151),  # mouth corner
    (-0.271, -0.096, -0.040),  # jaw near the ear
    (-0.131, -0.273, 0.111),  # lower cheek
    (-0.203, -0.081, 0.115),  # cheek
    (-0.145, 0.148, 0.177),  # brow
    (-0.072, 0.070, 0.142),  # inner eye corner
    (-0.176, 0.075, 0.119),  # outer eye corner
    (-0.070, -0.080, 0.180),  # nose wing
    (-0.221, -0.265, -0.075),  # jaw angle
    (-0.262, 0.072, 0.022),  # temple
    (-0.288, -0.005, -0.214),  # ear
    (-0.160, 0.340, 0.105),  # side of the forehead
    (-0.201, 0.454, -0.141),  # top
    (0.203, 0.244, -0.524),  # back, upper
    (0.164, -0.168, -0.387),  # back, lower
    (-0.288, -0.458, -0.391),  # back of the neck
)
_MIDLINE_MEANS = (
    (0.0, -0.452, -0.050),  # front of the neck
    (0.0, -0.046, 0.284),  # tip of the nose
    (0.0, -0.240, 0.191),  # lower lip
    (0.0, -0.158, 0.232),  # upper lip
    (0.0, 0.063, 0.215),  # bridge of the nose
    (0.0, 0.198, 0.204),  # glabella
    (0.0, -0.371, 0.154),  # chin
)
# Anchor number -> landmark of MediaPipe at the same place.
_SAME_PLACE = {0: 61, 1: 291, 10: 133, 11: 362, 12: 33, 13: 263, 33: 4}
_CORRECTION_RADIUS = 0.05
"""Metres over which a landmark's remaining offset fades."""


def mean_anchors() -> Float[ndarray, "39 3"]:
    """Give NPHM's mean anchors in canonical units, pairs mirrored exactly."""
    pairs = np.array(_PAIR_MEANS)
    both = np.stack([pairs, pairs * [-1.0, 1.0, 1.0]], axis=1).reshape(-1, 3)
    return np.concatenate([both, np.array(_MIDLINE_MEANS)])


def find_anchors(
    model: HeadModel, landmarks: LandmarkEmbedding, seen: Bool[ndarray, " n_vertices"], pairs: MirroredPairs
) -> Int[ndarray, " 39"]:
    """Give the template's vertices for the 39 anchors; `seen` marks skin that may carry one.

    Raises TemplateError where the landmarks for the similarity are missing.
    """
    if (model.n_vertices, len(model.faces)) == FLAME_TOPOLOGY:
        return np.array(FLAME_ANCHORS, np.int64)
    known = landmarks.by_index(model.v_template, model.faces)
    used = [k for k in _SAME_PLACE if _SAME_PLACE[k] in known]
    if len(used) < 5:
        raise TemplateError(
            f"the landmark embedding has {len(used)} of the {len(_SAME_PLACE)} landmarks that place the anchors; "
            "expected at least 5. Learn the embedding again with more views."
        )
    target = np.stack([known[_SAME_PLACE[k]] for k in used])
    means = mean_anchors()
    placed = align_points(means[used], target).apply(means)
    placed = placed + _smooth_offset(placed, placed[used], target - placed[used])
    return _nearest_vertices(placed, model.v_template, seen, pairs)


def _smooth_offset(
    points: Float[ndarray, "n 3"], sources: Float[ndarray, "m 3"], offsets: Float[ndarray, "m 3"]
) -> Float[ndarray, "n 3"]:
    """Spread offsets known at few points by normalised Gaussian weights that fade to nothing far away."""
    distance_sq = ((points[:, None] - sources[None]) ** 2).sum(axis=2)
    weight = np.exp(-distance_sq / _CORRECTION_RADIUS**2)
    exact = np.exp(-distance_sq / (0.2 * _CORRECTION_RADIUS) ** 2)
    sharp = weight * exact + 1e-6 * weight
    return weight.max(axis=1, keepdims=True) * (sharp @ offsets) / np.maximum(sharp.sum(axis=1, keepdims=True), 1e-12)


def _nearest_vertices(
    points: Float[ndarray, "39 3"], vertices: Float[ndarray, "n 3"], seen: Bool[ndarray, " n"], pairs: MirroredPairs
) -> Int[ndarray, " 39"]:
    """Move anchors to vertices; both of a pair to mirrored vertices, the last seven to the midline."""
    from scipy.spatial import cKDTree

    allowed = np.flatnonzero(seen)
    middle = allowed[np.abs(vertices[allowed, 0]) < 1e-3]
    out = np.empty(N_ANCHORS, np.int64)
    n_paired = 2 * len(_PAIR_MEANS)
    mirrored = points[:n_paired:2] * [-1.0, 1.0, 1.0]
    first = 0.5 * (mirrored + points[1:n_paired:2]) * [-1.0, 1.0, 1.0]
    out[:n_paired:2] = allowed[cKDTree(vertices[allowed]).query(first)[1]]
    out[1:n_paired:2] = pairs.partner[out[:n_paired:2]]
    out[n_paired:] = middle[cKDTree(vertices[middle]).query(points[n_paired:])[1]]
    return out
