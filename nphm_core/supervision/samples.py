"""What samples are drawn from, and the samples themselves."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray


@dataclass(frozen=True)
class ClosedScan:
    """A scan in metric space (mm) with its holes filled; triangles counter-clockwise seen from outside."""

    vertices: Float[ndarray, "n 3"]
    faces: Int[ndarray, "m 3"]
    """First the scan's triangles, then those that close its holes and are no measurement."""
    n_scan_faces: int

    @property
    def is_fill(self) -> Bool[ndarray, " m"]:
        """Mark the triangles that are no measurement."""
        return np.arange(len(self.faces)) >= self.n_scan_faces


@dataclass(frozen=True)
class Plane:
    """A plane through `origin`; what lies on the side of `normal` is kept."""

    origin: Float[ndarray, " 3"]
    normal: Float[ndarray, " 3"]

    def keeps(self, points: Float[ndarray, "n 3"]) -> Bool[ndarray, " n"]:
        """Mark the points on the kept side."""
        return (points - self.origin) @ self.normal > 0


@dataclass(frozen=True)
class SurfaceSamples:
    """Points on the scan, in canonical space."""

    position: Float[ndarray, "n 3"]
    normal: Float[ndarray, "n 3"]
    """Unit, outward, interpolated from vertex normals."""


@dataclass(frozen=True)
class DistanceSamples:
    """Points off the scan, in canonical space, with their signed distance in canonical units."""

    position: Float[ndarray, "n 3"]
    sdf: Float[ndarray, " n"]
    trusted: Bool[ndarray, " n"]
    """False where sign or distance rest on a hole fill, a rim, or a winding number near one half."""


@dataclass(frozen=True)
class SdfSamples:
    """All samples of one scan, each group in random order."""

    face: SurfaceSamples
    """On the scan, near the registered face region."""
    rest: SurfaceSamples
    """On the scan, elsewhere: hair, back of the head, neck."""
    near: DistanceSamples
    far: DistanceSamples
