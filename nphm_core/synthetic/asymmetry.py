"""Local lopsidedness that no linear model has: a crooked nose, one ear lower, a fuller cheek on one side.

A person gets several displacement fields, each a Gaussian around a place on the skin with its own width and direction,
drawn without regard to the other side. They act on the resting head, before expression and skinning, so that they move
with the skin; around each eye the field is made constant, so that lids keep to their eyeball. Lengths in mm.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

# Full width of a Gaussian at half its height, in standard deviations, halved.
_RADIUS_PER_STD = 1.177
_MAX_SLOPE = 0.45
"""Steepest change of the displacement over the skin: at 1 the field would fold."""
_EYE_INNER_MM, _EYE_OUTER_MM = 17.0, 30.0
_NEIGHBOUR_MM = 6.0


@dataclass(frozen=True)
class WarpSettings:
    """How lopsided people are."""

    count: tuple[int, int] = (8, 14)
    """Least and greatest number of fields."""
    radius_mm: tuple[float, float] = (10.0, 35.0)
    """Distance at which a field has half its amplitude."""
    amplitude_mm: tuple[float, float] = (2.0, 6.0)


@dataclass(frozen=True)
class LocalWarps:
    """The fields of one person."""

    centre: Float[ndarray, "n 3"]
    std_mm: Float[ndarray, " n"]
    displacement: Float[ndarray, "n 3"]
    """At the centre, mm."""

    def at(self, points_mm: Float[ndarray, "k 3"]) -> Float[ndarray, "k 3"]:
        """Give the sum of all fields at places on the resting mean head."""
        distance_sq = ((points_mm[:, None] - self.centre[None]) ** 2).sum(2)
        return np.exp(-0.5 * distance_sq / self.std_mm**2) @ self.displacement


def draw_warps(
    material: Float[ndarray, "n 3"],
    allowed: Bool[ndarray, " n"],
    settings: WarpSettings,
    *,
    rng: np.random.Generator,
) -> LocalWarps:
    """Draw the fields of one person; their centres are vertices marked in `allowed`, spread over the surface."""
    n = int(rng.integers(settings.count[0], settings.count[1] + 1))
    places = material[allowed]
    # A finely meshed mouth must not take all centres: vertices count by the area that they stand for.
    weight = 1.0 / _crowding(places)
    centre = places[rng.choice(len(places), n, p=weight / weight.sum())]
    low, high = settings.radius_mm
    std = low * (high / low) ** rng.random(n) / _RADIUS_PER_STD
    # Steepest at one standard deviation, exp(-1/2) of amplitude over width.
    steepest = _MAX_SLOPE * std / np.exp(-0.5)
    amplitude = np.minimum(rng.uniform(*settings.amplitude_mm, n), steepest)
    direction = rng.standard_normal((n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return _tamed(LocalWarps(centre, std, amplitude[:, None] * direction))


def _tamed(warps: LocalWarps) -> LocalWarps:
    """Weaken fields that lie on top of each other, where together they might fold."""
    distance_sq = ((warps.centre[:, None] - warps.centre[None]) ** 2).sum(2)
    overlap = np.exp(-0.5 * distance_sq / (warps.std_mm[:, None] ** 2 + warps.std_mm[None] ** 2))
    slope = np.exp(-0.5) * np.linalg.norm(warps.displacement, axis=1) / warps.std_mm
    # Random directions add up as squares.
    together = np.sqrt(overlap**2 @ slope**2)
    share = np.minimum(1.0, 1.3 * _MAX_SLOPE / np.maximum(together, 1e-12))
    return LocalWarps(warps.centre, warps.std_mm, share[:, None] * warps.displacement)


def warp_head(
    warps: LocalWarps, material: Float[ndarray, "n 3"], eye_centres: Float[ndarray, "2 3"]
) -> Float[ndarray, "n 3"]:
    """Give the displacement of every vertex of the resting head; rigid around the eyes."""
    out = warps.at(material)
    for centre in eye_centres:
        distance = np.linalg.norm(material - centre, axis=1)
        t = np.clip((_EYE_OUTER_MM - distance) / (_EYE_OUTER_MM - _EYE_INNER_MM), 0, 1)
        share = (t * t * (3 - 2 * t))[:, None]
        out = out + share * (warps.at(centre[None]) - out)
    return out


def _crowding(points: Float[ndarray, "n 3"]) -> Float[ndarray, " n"]:
    from scipy.spatial import cKDTree

    return cKDTree(points).query_ball_point(points, _NEIGHBOUR_MM, return_length=True).astype(float)
