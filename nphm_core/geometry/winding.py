"""Which side of a surface a point is on, for surfaces that need not be closed.

The generalised winding number is 1 inside and 0 outside of a closed surface, and between both near the holes of an
open one. Barill et al., Fast winding numbers for soups and clouds, 2018.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from nphm_core.geometry.bvh import checked_positions, morton_order
from nphm_core.geometry.closest import Closest, ClosestPoints


class WindingNumber:
    """Measures winding numbers of one mesh, built once and asked often."""

    def __init__(self, vertices: Float[ndarray, "n_vertices 3"], faces: Int64[ndarray, "n_faces 3"]) -> None:
        """Build the tree; no faces, or positions that are not finite, raise ValueError."""
        import igl

        if len(faces) == 0:
            raise ValueError("no faces: a point cloud without triangles has no inside")
        vertices = checked_positions(vertices, "vertices")
        if faces.min() < 0 or faces.max() >= len(vertices):
            raise ValueError(f"faces name vertices {faces.min()} to {faces.max()}; there are {len(vertices)}")
        # igl keeps single precision: centred, nothing is lost far from the origin.
        self._centre = 0.5 * (vertices.min(axis=0) + vertices.max(axis=0))
        self._tree = igl.FastWindingNumberBVH()
        self._tree.init(vertices - self._centre, np.ascontiguousarray(faces, np.int64))

    def at(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, " n"]:
        """Give the winding number at each point; right to about 0.01."""
        points = checked_positions(points, "query points")
        out = np.empty(len(points))
        if len(points):
            order = morton_order(points)
            out[order] = self._tree.winding_number(points[order] - self._centre)
        return out


@dataclass(frozen=True)
class SignedDistances:
    """Signed distances of points to a surface, with what the sign rests on."""

    closest: Closest
    """The closest point of the surface; its distance is not negative."""
    winding: Float[ndarray, " n"]
    """Winding number. Values far from both 0 and 1 lie near a hole, where the sign is a guess."""

    @cached_property
    def signed_distance(self) -> Float[ndarray, " n"]:
        """Distance, negative inside."""
        # igl.signed_distance gives (1 - 2 |w|) * distance instead, which is wrong near every hole.
        return np.where(self.winding > 0.5, -self.closest.distance, self.closest.distance)

    def trusted(self, margin: float = 0.2) -> Bool[ndarray, " n"]:
        """Mark points whose winding number is at least `margin` away from the undecided 0.5."""
        return np.abs(self.winding - 0.5) >= margin


class SignedDistance:
    """Measures signed distances to one mesh, built once and asked often; faces must look outward."""

    def __init__(self, vertices: Float[ndarray, "n_vertices 3"], faces: Int64[ndarray, "n_faces 3"]) -> None:
        """Build both trees; the same refusals as `ClosestPoints` and `WindingNumber`."""
        self._closest, self._winding = ClosestPoints(vertices, faces), WindingNumber(vertices, faces)

    def at(self, points: Float[ndarray, "n 3"]) -> SignedDistances:
        """Measure at points; unit of the mesh."""
        return SignedDistances(self._closest.query(points), self._winding.at(points))
