"""Distances from points to a scan, be it a mesh or a point cloud; all lengths in mm, in metric space.

On a mesh it is the distance to the closest point of the surface. A cloud has no surface: there it is the distance to
the planes of the nearest points, averaged with their signs, so that neither the spacing of the points nor the noise
of a single one counts as error.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from nphm_core.geometry.closest import Closest, ClosestPoints
from nphm_core.geometry.mesh import Mesh, boundary_vertices, vertex_normals

_CLOUD_NEIGHBOURS = 6
_FIT_NEIGHBOURS = 12
# A point farther from the cloud than this many spacings lies beside it.
_CLOUD_REACH = 3.0
_ON_EDGE = 1e-9


@dataclass(frozen=True)
class ScanDistances:
    """What the scan says of each point that was asked for."""

    distance: Float[ndarray, " n"]
    """Not negative; infinite where the scan is farther than the limit."""
    plane: Float[ndarray, " n"]
    """Part of the distance along the scan's normal, not negative; infinite beyond the limit."""
    agreement: Float[ndarray, " n"]
    """Cosine of the angle between the point's normal and the scan's; -1 beyond the limit."""
    at_border: Bool[ndarray, " n"]
    """The closest point lies on the scan's border: the scan ends there and does not say where the surface is."""


class MeasuredScan:
    """A scan that distances are measured to, prepared once and asked often."""

    def __init__(self, scan: Mesh) -> None:
        """Prepare a scan in mm that faces outwards."""
        self._scan = scan
        self._closest = ClosestPoints(scan.vertices, scan.faces)
        if scan.n_faces:
            self._normals = vertex_normals(scan.vertices, scan.faces)
            self._border = boundary_vertices(scan.n_vertices, scan.faces)
            return
        from scipy.spatial import cKDTree

        self._points = cKDTree(scan.vertices)
        self._has_sides = scan.normals is not None
        self._normals = _fitted_normals(scan.vertices, self._points) if scan.normals is None else scan.normals
        sample = scan.vertices[:: max(1, scan.n_vertices // 2000)]
        self._reach = _CLOUD_REACH * float(np.median(self._points.query(sample, k=[2])[0]))

    @property
    def is_cloud(self) -> bool:
        """Say whether the scan has no triangles."""
        return self._scan.n_faces == 0

    def distances(
        self, points: Float[ndarray, "n 3"], normals: Float[ndarray, "n 3"], *, max_distance_mm: float
    ) -> ScanDistances:
        """Measure points with outward unit normals; what is farther than the limit counts as not there."""
        found = self._closest.query(points, max_distance_mm)
        if self.is_cloud:
            return self._cloud_distances(points, normals, found)
        near = np.flatnonzero(found.face >= 0)
        corner, weight = self._scan.faces[found.face[near]], found.barycentric[near]
        normal = np.einsum("nk,nkd->nd", weight, self._normals[corner])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300)
        plane, agreement = np.full(len(points), np.inf), np.full(len(points), -1.0)
        plane[near] = np.abs(((points[near] - found.point[near]) * normal).sum(1))
        agreement[near] = (normals[near] * normal).sum(1)
        at_border = np.zeros(len(points), bool)
        at_border[near] = _on_border(weight, self._border[corner])
        return ScanDistances(found.distance, plane, agreement, at_border)

    def _cloud_distances(self, points: ndarray, normals: ndarray, found: Closest) -> ScanDistances:
        near = np.flatnonzero(found.face >= 0)
        k = min(_CLOUD_NEIGHBOURS, self._scan.n_vertices)
        neighbours = self._points.query(points[near], k=list(range(1, k + 1)))[1]
        n = self._normals[neighbours]
        if not self._has_sides:
            n = n * np.where(np.einsum("nkd,nd->nk", n, normals[near]) < 0, -1.0, 1.0)[..., None]
        offset = np.einsum("nkd,nkd->nk", points[near][:, None] - self._scan.vertices[neighbours], n)
        distance, agreement = np.full(len(points), np.inf), np.full(len(points), -1.0)
        distance[near] = np.abs(offset.mean(1))
        mean = n.mean(1)
        agreement[near] = (mean * normals[near]).sum(1) / np.maximum(np.linalg.norm(mean, axis=1), 1e-300)
        # Beside the end of a cloud the planes pass near, though no point does.
        beside = np.sqrt(np.maximum(found.distance[near] ** 2 - distance[near] ** 2, 0)) > self._reach
        at_border = np.zeros(len(points), bool)
        at_border[near] = beside
        return ScanDistances(distance, distance, agreement, at_border)


def _on_border(weight: Float[ndarray, "n 3"], border: Bool[ndarray, "n 3"]) -> Bool[ndarray, " n"]:
    """Mark points on an edge or a corner all of whose vertices lie on the border."""
    on = weight > _ON_EDGE
    return (on & ~border).sum(1) + (on.sum(1) == 3) == 0


def _fitted_normals(points: Float[ndarray, "n 3"], tree: "object") -> Float[ndarray, "n 3"]:
    """Give normals of the planes through each point's neighbours; their side is arbitrary."""
    neighbours = tree.query(points, k=min(_FIT_NEIGHBOURS, len(points)))[1]  # type: ignore[attr-defined]
    patch = points[neighbours.reshape(len(points), -1)]
    offset = patch - patch.mean(axis=1, keepdims=True)
    normals: ndarray = np.linalg.eigh(np.einsum("nki,nkj->nij", offset, offset))[1][:, :, 0]
    return normals
