"""Colours of a synthetic head: skin, lips, brows, lashes, eyes, hair, as functions of material coordinates.

Nothing here comes from a photograph. Colours are sRGB in [0, 1] until the end. Good enough that a face detector
trained on photographs finds the face, which the tests check.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from nphm_core.synthetic.head_map import HeadMap
from nphm_core.synthetic.noise import smooth_noise
from nphm_core.synthetic.subject import Subject

_IRIS_MM = 5.9
_PUPIL_MM = 2.1
_LASH_MM = 1.4
_BROW_RISE_MM = 20.0


@dataclass(frozen=True)
class PaintedPoints:
    """Points of the surface, as the painter sees them."""

    material: Float[ndarray, "n 3"]
    """mm on the resting mean head."""
    eyeball: Float[ndarray, " n"]
    inside: Float[ndarray, " n"]
    hair: Float[ndarray, " n"]
    ambient: Float[ndarray, " n"]
    """Share of the sky that a point sees, in [0, 1]."""


def paint(points: PaintedPoints, head_map: HeadMap, subject: Subject) -> UInt8[ndarray, "n 3"]:
    """Give the colour of each point."""
    m, seed = points.material, subject.seed
    colour = _skin(m, head_map, subject)
    colour = _blend(colour, _lips_colour(subject), 0.75 * _lips(m, head_map))
    strands = 0.75 + 0.25 * np.clip(1.4 * smooth_noise(m, (1.6, 0.9, 3.0), seed + 11), -1, 1)
    colour = _blend(colour, subject.hair * 0.8, 0.9 * strands * _brows(m, head_map))
    skin_only = 1 - points.eyeball
    colour = _blend(colour, subject.hair * 0.4, 0.85 * skin_only * _lashes(m, head_map))
    colour = _blend(colour, np.array([0.34, 0.12, 0.11]), points.inside)
    colour = np.where((points.eyeball > 0.5)[:, None], _eye(m, head_map, subject), colour)
    locks = 1 + 0.25 * smooth_noise(m, (2.2, 14.0, 2.2), seed + 12)
    colour = _blend(colour, subject.hair * locks[:, None], np.clip(1.6 * points.hair, 0, 1))
    shade = 0.35 + 0.65 * np.clip(points.ambient / 0.8, 0, 1)
    return np.clip(np.rint(255 * colour * shade[:, None]), 0, 255).astype(np.uint8)


def _blend(colour: Float[ndarray, "n 3"], other: ndarray, share: Float[ndarray, " n"]) -> Float[ndarray, "n 3"]:
    return colour + np.clip(share, 0, 1)[:, None] * (other - colour)


def _skin(m: Float[ndarray, "n 3"], head_map: HeadMap, subject: Subject) -> Float[ndarray, "n 3"]:
    eyes, mouth = head_map.eye_centres, head_map.upper_lip.mean(0)
    between = 0.5 * (eyes[0] + eyes[1])
    # Cheeks and the tip of the nose are redder.
    red = np.zeros(len(m))
    for x in (0.5 * (eyes[0, 0] + mouth[0]) * 1.9, 0.5 * (eyes[1, 0] + mouth[0]) * 1.9, mouth[0]):
        centre = np.array([x, 0.62 * mouth[1] + 0.38 * between[1]])
        red += np.exp(-((m[:, :2] - centre) ** 2).sum(1) / (2 * 14.0**2)) * (m[:, 2] > between[2] - 15)
    blotches = 0.045 * smooth_noise(m, 14.0, subject.seed + 13, octaves=2)
    grain = 0.027 * smooth_noise(m, 2.5, subject.seed + 14)
    colour = subject.skin * (1 + blotches + grain)[:, None]
    return colour * (1 + 0.09 * np.minimum(red, 1)[:, None] * np.array([0.3, -1.0, -0.8]))


def _lips_colour(subject: Subject) -> Float[ndarray, " 3"]:
    return subject.skin * np.array([0.82, 0.52, 0.52])


def _lips(m: Float[ndarray, "n 3"], head_map: HeadMap) -> Float[ndarray, " n"]:
    """Mark the red of the lips: a band along each rim, thick in the middle and nothing in the corners."""
    from scipy.spatial import cKDTree

    out = np.zeros(len(m))
    corners = np.concatenate([head_map.upper_lip, head_map.lower_lip])
    middle, half = corners[:, 0].mean(), 0.5 * np.ptp(corners[:, 0])
    for rim, thick, side in ((head_map.upper_lip, 7.0, 1.0), (head_map.lower_lip, 9.0, -1.0)):
        distance, nearest = cKDTree(rim).query(m, distance_upper_bound=thick + 2)
        found = np.isfinite(distance)
        t = np.clip(np.abs(m[found, 0] - middle) / half, 0, 1)
        limit = thick * (1 - t**2) ** 0.6
        band = np.clip((limit - distance[found]) / 1.5 + 0.5, 0, 1)
        above = side * (m[found, 1] - rim[nearest[found], 1])
        out[found] = np.maximum(out[found], band * np.clip((above + 3.0) / 2.0, 0, 1))
    return out


def _brows(m: Float[ndarray, "n 3"], head_map: HeadMap) -> Float[ndarray, " n"]:
    out = np.zeros(len(m))
    for centre in head_map.eye_centres:
        side = np.sign(centre[0])
        # 0 at the inner end, 1 at the tail.
        t = (side * (m[:, 0] - centre[0]) + 15.0) / 38.0
        arch = centre[1] + _BROW_RISE_MM + 3.5 * np.sin(np.pi * np.clip(t, 0, 1) ** 1.3) - 3.0 * t
        half = 3.6 * (1 - 0.65 * np.clip(t, 0, 1))
        band = np.clip((half - np.abs(m[:, 1] - arch)) / 1.5 + 0.5, 0, 1)
        ends = np.clip((t + 0.04) / 0.12, 0, 1) * np.clip((1.02 - t) / 0.1, 0, 1)
        out = np.maximum(out, band * ends * (m[:, 2] > centre[2]))
    return out


def _lashes(m: Float[ndarray, "n 3"], head_map: HeadMap) -> Float[ndarray, " n"]:
    out = np.zeros(len(m))
    for centre in head_map.eye_centres:
        offset = m - centre
        gap = np.linalg.norm(offset, axis=1) - head_map.eye_radius
        front = offset[:, 2] > 0.35 * head_map.eye_radius
        out = np.maximum(out, front * np.clip((_LASH_MM - gap) / 0.7 + 0.5, 0, 1))
    return out


def _eye(m: Float[ndarray, "n 3"], head_map: HeadMap, subject: Subject) -> Float[ndarray, "n 3"]:
    nearest = (m[:, 0] < head_map.eye_centres.mean(0)[0]).astype(int)
    offset = m - head_map.eye_centres[nearest]
    radius = np.hypot(offset[:, 0], offset[:, 1])
    colour = np.tile(np.array([0.90, 0.88, 0.86]), (len(m), 1))
    in_front = offset[:, 2] > 0
    colour = _blend(colour, subject.iris, in_front * np.clip((_IRIS_MM - radius) / 0.8 + 0.5, 0, 1))
    rim = np.clip(1 - np.abs(radius - _IRIS_MM) / 0.8, 0, 1)
    colour = _blend(colour, subject.iris * 0.35, in_front * rim)
    return _blend(colour, np.array([0.03, 0.03, 0.03]), in_front * np.clip((_PUPIL_MM - radius) / 0.6 + 0.5, 0, 1))
