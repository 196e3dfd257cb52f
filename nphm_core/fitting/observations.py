"""What was observed of a head: points of one scan, in any unit and pose, with whatever else is known of them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nphm_core.errors import FittingError
from nphm_core.geometry.mesh import Mesh, face_normals
from nphm_core.geometry.sampling import interpolate, sample_surface
from nphm_core.registration.cloud_repair import estimate_normals, neighbours, orient_cloud_outwards
from nphm_core.spaces import Similarity

MIN_POINTS = 50
# More than a fit can use; estimating normals of all points of a large cloud would take longer than the fit.
_MAX_CLOUD = 40_000


@dataclass(frozen=True)
class Observation:
    """The points of one scan."""

    points: Float[ndarray, "n 3"]
    """In any unit and pose; rows that are not finite are ignored."""
    normals: Float[ndarray, "n 3"] | None = None
    """Outward unit normals; None if there are none."""
    weights: Float[ndarray, " n"] | None = None
    """Not negative; zero for points that are no head."""
    anchors: Float[ndarray, "39 3"] | None = None
    """The model's anchors on the scan, NaN rows where they are not known."""
    T_canonical_observed: Similarity | None = None
    """A start for the pose, good or not; None searches everywhere."""
    mm_per_unit: float | None = None
    """Millimetres in a unit of the points; None if that is not known, and then the size is found as well."""


def observe_mesh(
    mesh: Mesh,
    n_points: int,
    *,
    rng: np.random.Generator,
    mm_per_unit: float | None = None,
    anchors: Float[ndarray, "39 3"] | None = None,
    T_canonical_observed: Similarity | None = None,
) -> Observation:
    """Draw points with normals from a surface, or take some of a cloud's.

    A cloud without normals gets those of the planes through each point's neighbours, turned outwards where the
    majority of them tells what outside is.
    """
    points, normals = _surface_points(mesh, n_points, rng) if mesh.n_faces else _cloud_points(mesh, n_points, rng)
    return Observation(points, normals, None, anchors, T_canonical_observed, mm_per_unit)


def checked_observation(observation: Observation) -> Observation:
    """Give the finite points of weight as float64; FittingError where hardly any are left."""
    kept = np.isfinite(observation.points).all(axis=1)
    weights = np.ones(len(kept)) if observation.weights is None else observation.weights.astype(np.float64)
    kept &= np.isfinite(weights) & (weights > 0)
    if kept.sum() < MIN_POINTS:
        raise FittingError(
            f"the scan has {int(kept.sum())} usable points; expected at least {MIN_POINTS}. Give more points of the "
            "head, or leave this scan out"
        )
    normals = None
    if observation.normals is not None:
        normals = observation.normals[kept].astype(np.float64)
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        # A normal of no length says nothing; the energy leaves it out.
        normals = np.where(length > 1e-6, normals / np.maximum(length, 1e-6), 0.0)
    return Observation(
        observation.points[kept].astype(np.float64),
        normals,
        weights[kept],
        None if observation.anchors is None else observation.anchors.astype(np.float64),
        observation.T_canonical_observed,
        observation.mm_per_unit,
    )


def _surface_points(mesh: Mesh, n: int, rng: np.random.Generator) -> tuple[ndarray, ndarray]:
    drawn = sample_surface(mesh.vertices, mesh.faces, n, rng=rng)
    normals, _ = face_normals(mesh.vertices, mesh.faces)
    return interpolate(mesh.vertices, mesh.faces, drawn.face, drawn.barycentric), normals[drawn.face]


def _cloud_points(mesh: Mesh, n: int, rng: np.random.Generator) -> tuple[ndarray, ndarray | None]:
    cloud = mesh
    if mesh.normals is None and mesh.n_vertices > MIN_POINTS:
        ids = np.sort(rng.permutation(mesh.n_vertices)[:_MAX_CLOUD])
        points = mesh.vertices[ids]
        normals = estimate_normals(points, neighbours(points)[1])
        cloud = orient_cloud_outwards(Mesh(points, mesh.faces, normals))[0]
    ids = np.sort(rng.permutation(cloud.n_vertices)[:n])
    return cloud.vertices[ids], None if cloud.normals is None else cloud.normals[ids]
