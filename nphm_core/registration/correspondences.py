"""Which point of the scan each template vertex belongs to, and how much it is to be believed.

Positions in mm in metric space. A correspondence is a plane (point and normal of the scan). Its weight is the product
of a Welsch weight of the distance (Holland and Welsch 1977), the vertex's own weight, and, where hair may grow, how
bare the scan is there. Normals that differ too much, and points too far away, weigh nothing. The closest point of a
vertex that looks into a hole lies on the hole's border: its plane still says something, its place does not.
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int
from numba import njit
from numpy import ndarray

from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.subdivision import Subdivision
from nphm_core.registration.scan_surface import ScanSurface

_BORDER_REACH_MM = 3.0
"""Beyond this distance along the surface, a border's or a point's plane is not continued."""
_CLOUD_NEIGHBOURS = 12
_BARE_FROM = 0.7
_HAIR_MM = 3.0
"""Where hair may grow, a scan this far outside the rest pose is hair."""
_HAIR_TRUST = 0.05
"""Weight where hair may grow and the scan looks bare: enough for a bald head, too little for a hairline's fringe to
drag the forehead along."""
_HAIR_HOLD = 0.01
"""Weight of the rest pose under hair: a large part without data, held on one side, would tilt with its edge."""
_GATE = 3.5
"""Correspondences farther than this many robust scales weigh nothing, so they need not be looked for."""


@dataclass(frozen=True)
class Correspondences:
    """A plane of the scan for each template vertex."""

    points: Float[ndarray, "n 3"]
    normals: Float[ndarray, "n 3"]
    weights: Float[ndarray, " n"]
    """Weight of the squared distance to the plane; 0 without a correspondence."""
    point_weights: Float[ndarray, " n"]
    """Weight of the squared distance to the point."""
    rest_weights: Float[ndarray, " n"]
    """Weight of the squared distance to the rest pose: positive under hair."""
    distances: Float[ndarray, " n"]
    """Distance to the scan, mm: to the plane where the point lies on a border or belongs to a cloud; infinite without
    a correspondence."""

    def at(self, index: Int[ndarray, " m"]) -> "Correspondences":
        """Give those of some vertices."""
        return Correspondences(*(getattr(self, field.name)[index] for field in fields(self)))

    def with_others(self, index: Int[ndarray, " m"], others: "Correspondences") -> "Correspondences":
        """Give these with some vertices' replaced."""
        out = Correspondences(*(np.array(getattr(self, field.name)) for field in fields(self)))
        for field in fields(self):
            getattr(out, field.name)[index] = getattr(others, field.name)
        return out


@dataclass(frozen=True)
class Trust:
    """How far each template vertex may follow the scan."""

    weights: Float[ndarray, " n"]
    """0: never."""
    hair_prone: Float[ndarray, " n"]
    """1: only as far as the scan is bare there, and less than elsewhere."""
    bald: Float[ndarray, " n"]
    """1: part of a scalp that was found to be bald. Where it is bare the scan is followed as anywhere else, and what is
    not (a mark on the skin) follows what lies around it and not the rest pose."""

    @classmethod
    def of(cls, weights: Float[ndarray, " n"]) -> "Trust":
        """Give the trust of vertices where no hair may grow."""
        return cls(weights, np.zeros(len(weights)), np.zeros(len(weights)))

    def subdivided(self, step: Subdivision) -> "Trust":
        """Give the trust on the next finer level."""
        return Trust(step.matrix @ self.weights, step.matrix @ self.hair_prone, step.matrix @ self.bald)


class ScanTarget:
    """A scan with its search tree."""

    def __init__(self, scan: ScanSurface, closest: ClosestPoints | None = None) -> None:
        """Take a tree that was built from the same vertices and faces, or build it.

        A point cloud is smoothed first: single points carry the scanner's noise, which a mesh has averaged.
        """
        self._is_cloud = len(scan.faces) == 0
        points, normals = scan.vertices, scan.normals
        if self._is_cloud:
            points, normals = smoothed_cloud(points, normals)
        self._closest = closest if closest is not None else ClosestPoints(points, scan.faces)
        n = len(scan.vertices)
        corners = np.repeat(np.arange(n)[:, None], 3, axis=1) if self._is_cloud else scan.faces
        self._corners = np.ascontiguousarray(corners, np.int64)
        self._normals = np.ascontiguousarray(normals, float)
        self._border = np.ascontiguousarray(scan.border, bool)
        # Half bare is hair: its edge would pull the forehead outwards.
        self._bare = np.clip((np.asarray(scan.bare, float) - _BARE_FROM) / (1 - _BARE_FROM), 0, 1)

    def correspondences(
        self,
        vertices: Float[ndarray, "n 3"],
        normals: Float[ndarray, "n 3"],
        rest: Float[ndarray, "n 3"],
        trust: Trust,
        *,
        robust_mm: float,
        max_distance_mm: float,
        max_angle_rad: float,
        point_share: float,
    ) -> Correspondences:
        """Find the plane of each vertex; vertices without trust are measured too."""
        found = self._closest.query(vertices, max_distance_mm)
        out = Correspondences(
            np.array(found.point), np.empty_like(vertices), *(np.empty(len(vertices)) for _ in range(4))
        )
        _weigh(
            vertices, normals, rest, found.face, found.barycentric, found.distance, self._corners, self._normals,
            self._border, self._bare, self._is_cloud, trust.weights, trust.hair_prone, trust.bald, robust_mm,
            min(max_distance_mm, _GATE * robust_mm), np.cos(max_angle_rad), point_share,
            out.points, out.normals, out.weights, out.point_weights, out.rest_weights, out.distances,
        )  # fmt: skip
        return out


def border_hits(
    faces: ndarray, border: Bool[ndarray, " n"], face: ndarray, barycentric: Float[ndarray, "m 3"]
) -> Bool[ndarray, " m"]:
    """Mark closest points that lie on a border edge or vertex; without a face: not marked."""
    inner = np.where(border[faces[np.maximum(face, 0)]], 0.0, barycentric).sum(1)
    return (inner < 1e-4) & (face >= 0)


def smoothed_cloud(points: Float[ndarray, "n 3"], normals: Float[ndarray, "n 3"]) -> tuple[ndarray, ndarray]:
    """Move points along their normals to the surface that their neighbours lie on; average the normals."""
    from scipy.spatial import cKDTree

    tree = cKDTree(points)
    distance, near = tree.query(points, k=min(_CLOUD_NEIGHBOURS, len(points)))
    if near.ndim == 1:
        return points, normals
    weight = np.exp(-0.5 * (distance / np.maximum(distance[:, -1:] / 2, 1e-9)) ** 2)
    # Neighbours beyond an edge or on the other side do not count.
    weight *= np.maximum((normals[near] * normals[:, None]).sum(2), 0)
    weight /= weight.sum(1, keepdims=True)
    smooth = (weight[:, :, None] * normals[near]).sum(1)
    smooth /= np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-12)
    # On a curved surface the neighbours lie under the point's plane as far as the point lies under theirs.
    both = 0.5 * (smooth[:, None] + normals[near])
    height = (weight * ((points[near] - points[:, None]) * both).sum(2)).sum(1)
    return points + height[:, None] * smooth, smooth


@njit(cache=True, nogil=True)
def _weigh(
    vertices, vertex_normals, rest, face, barycentric, distance, corners, scan_normals, border, bare, is_cloud,
    trust, hair_prone, bald, robust, gate, cos_max, point_share,
    points, normals, weights, point_weights, rest_weights, distances,
):  # fmt: skip
    for i in range(len(vertices)):
        weights[i] = point_weights[i] = 0.0
        rest_weights[i] = _HAIR_HOLD * hair_prone[i]
        distances[i] = np.inf
        if face[i] < 0:
            points[i, :] = vertices[i, :]
            normals[i, :] = 0.0
            continue
        x = y = z = inner = bareness = 0.0
        for k in range(3):
            j, b = corners[face[i], k], barycentric[i, k]
            x += b * scan_normals[j, 0]
            y += b * scan_normals[j, 1]
            z += b * scan_normals[j, 2]
            bareness += b * bare[j]
            if not border[j]:
                inner += b
        length = max(np.sqrt(x * x + y * y + z * z), 1e-12)
        x, y, z = x / length, y / length, z / length
        normals[i, 0], normals[i, 1], normals[i, 2] = x, y, z
        plane = cosine = outside = 0.0
        for k in range(3):
            plane += normals[i, k] * (vertices[i, k] - points[i, k])
            cosine += normals[i, k] * vertex_normals[i, k]
            outside += vertex_normals[i, k] * (points[i, k] - rest[i, k])
        loose = is_cloud or inner < 1e-4
        distances[i] = distance[i]
        if loose:
            if distance[i] * distance[i] - plane * plane > _BORDER_REACH_MM**2:
                continue
            distances[i] = abs(plane)
        if outside > _HAIR_MM and bald[i] < 0.5:
            bareness = 0.0
        covered = hair_prone[i] * (1.0 - bareness)
        rest_weights[i] = _HAIR_HOLD * (1.0 - bald[i]) * covered
        if distances[i] > gate or cosine < cos_max:
            continue
        bare_trust = _HAIR_TRUST + (1.0 - _HAIR_TRUST) * bald[i]
        weight = trust[i] * (1.0 - hair_prone[i] * (1.0 - bare_trust * bareness))
        weights[i] = weight * np.exp(-0.5 * (distances[i] / robust) ** 2)
        if not loose:
            point_weights[i] = point_share * weights[i]
