"""A head's mesh as both protocols see it: points of triangles with normals interpolated from the vertices'."""

from functools import cached_property

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

from nphm_core.evaluation.point_metrics import OrientedPoints
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import Mesh, vertex_normals
from nphm_core.geometry.rays import RayCaster
from nphm_core.geometry.sampling import interpolate


class SmoothSurface:
    """One mesh in mm that faces outwards, prepared once; a mesh without triangles is refused."""

    def __init__(self, mesh: Mesh) -> None:
        """Take the mesh; normals that came with it are not used."""
        if mesh.n_faces == 0:
            raise ValueError("the mesh has no triangles: nothing can be sampled on it")
        self.vertices = np.ascontiguousarray(mesh.vertices, np.float64)
        self.faces = np.ascontiguousarray(mesh.faces, np.int64)
        self._normals = vertex_normals(self.vertices, self.faces)

    def at(self, face: Int64[ndarray, " n"], barycentric: Float[ndarray, "n 3"]) -> OrientedPoints:
        """Give points of triangles."""
        normals = interpolate(self._normals, self.faces, face, barycentric)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
        return OrientedPoints(interpolate(self.vertices, self.faces, face, barycentric), normals)

    @cached_property
    def caster(self) -> RayCaster:
        """What finds the first hits of rays."""
        return RayCaster(self.vertices, self.faces)

    @cached_property
    def closest(self) -> ClosestPoints:
        """What finds closest points."""
        return ClosestPoints(self.vertices, self.faces)
