"""Units, similarity transforms, and the spaces that meshes live in.

Scan space is the frame and unit of the file as delivered. Metric space is the scan's frame, right-handed and in mm.
Canonical space has the head's pose removed: +y up, +z out of the face, +x to the subject's left, one unit is
250 mm (FLAME's frame in metres times four, as NPHM has it). Transforms read right to left: `T_b_a` maps a to b.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

MM_PER_CANONICAL_UNIT = 250.0

MM_PER_UNIT = {"um": 0.001, "mm": 1.0, "cm": 10.0, "in": 25.4, "m": 1000.0}
"""Millimetres in one of the units that a scan table may name."""


@dataclass(frozen=True)
class Similarity:
    """A map x -> scale * rotation @ x + translation between two spaces."""

    scale: float
    """Uniform scale; positive."""
    rotation: Float[ndarray, "3 3"]
    """Proper rotation."""
    translation: Float[ndarray, " 3"]
    """In the unit of the target space."""

    @classmethod
    def identity(cls) -> "Similarity":
        """Give the map that changes nothing."""
        return cls(1.0, np.eye(3), np.zeros(3))

    def apply(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3"]:
        """Map points."""
        return self.scale * (points @ self.rotation.T) + self.translation

    def apply_directions(self, directions: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3"]:
        """Map directions: rotate them only, lengths stay."""
        return directions @ self.rotation.T

    def inverse(self) -> "Similarity":
        """Give the map back."""
        rotation = self.rotation.T
        return Similarity(1 / self.scale, rotation, -(rotation @ self.translation) / self.scale)

    def __matmul__(self, other: "Similarity") -> "Similarity":
        """Compose: apply `other` first."""
        return Similarity(
            self.scale * other.scale,
            self.rotation @ other.rotation,
            self.scale * (self.rotation @ other.translation) + self.translation,
        )

    def matrix(self) -> Float[ndarray, "4 4"]:
        """Give the homogeneous matrix."""
        out = np.eye(4)
        out[:3, :3] = self.scale * self.rotation
        out[:3, 3] = self.translation
        return out

    def to_json(self) -> dict:
        """Give plain numbers for a JSON file."""
        return {
            "scale": float(self.scale),
            "rotation": self.rotation.tolist(),
            "translation": self.translation.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict) -> "Similarity":
        """Read what `to_json` wrote."""
        return cls(float(data["scale"]), np.array(data["rotation"], float), np.array(data["translation"], float))


def align_points(
    source: Float[ndarray, "n 3"],
    target: Float[ndarray, "n 3"],
    weights: Float[ndarray, " n"] | None = None,
    *,
    with_scale: bool = True,
) -> Similarity:
    """Align corresponding points by least squares (Umeyama, PAMI 1991).

    Needs three points that are not on a line; fewer raise ValueError.
    """
    if len(source) < 3:
        raise ValueError(f"a similarity needs at least 3 pairs of points, not {len(source)}")
    w = np.ones(len(source)) if weights is None else weights
    w = w / w.sum()
    centre_source, centre_target = w @ source, w @ target
    x, y = source - centre_source, target - centre_target
    u, s, vt = np.linalg.svd((y * w[:, None]).T @ x)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = float((s * sign).sum() / (w @ (x**2).sum(1))) if with_scale else 1.0
    return Similarity(scale, rotation, centre_target - scale * rotation @ centre_source)
