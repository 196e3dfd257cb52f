"""Training samples of a scan's signed distance: on its surface, near it, and far from it.

Input is in metric space (mm), samples are in canonical space. Distances are Euclidean distances to the closed scan,
negative inside; their sign is that of one half minus the winding number. Hole fills are no measurement: nothing is
sampled on them, and a distance that ends on one or on a rim is not trusted. Differs from NPHM (METHOD 3.1), which
stores surface points only and gives its far points no distance.
"""

from dataclasses import fields
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.config import SampleSdfConfig
from nphm_core.errors import SamplingError
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import boundary_vertices, vertex_normals
from nphm_core.geometry.sampling import interpolate, sample_surface
from nphm_core.geometry.winding import SignedDistance
from nphm_core.spaces import Similarity
from nphm_core.supervision.samples import ClosedScan, DistanceSamples, Plane, SdfSamples, SurfaceSamples

# Barycentric weight below which the closest point is taken to lie on the opposite edge.
_ON_RIM = 1e-6
# Face/rest is looked up in cells of this size: a millimetre matters little at a limit of 50 mm.
_CELL_MM = 2.0
_Samples = TypeVar("_Samples", SurfaceSamples, DistanceSamples)


def sample_sdf(
    scan: ClosedScan,
    face_points_mm: Float[ndarray, "n_face 3"],
    throat: Plane | None,
    T_canonical_metric: Similarity,
    settings: SampleSdfConfig,
    *,
    rng: np.random.Generator,
) -> SdfSamples:
    """Draw samples from a closed scan.

    `face_points_mm` are registered vertices of the face region. Surface below the throat plane is not sampled.
    """
    normals = vertex_normals(scan.vertices, scan.faces[: scan.n_scan_faces])
    weights = _face_weights(scan, throat)
    drawn = sample_surface(scan.vertices, scan.faces, settings.n_surface, rng=rng, face_weights=weights)
    points = interpolate(scan.vertices, scan.faces, drawn.face, drawn.barycentric)
    directions = interpolate(normals, scan.faces, drawn.face, drawn.barycentric)
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-300)
    surface = SurfaceSamples(T_canonical_metric.apply(points), T_canonical_metric.apply_directions(directions))
    is_face = _near_any(points, face_points_mm, settings.face_distance_mm)
    near_mm = _near_points(scan, weights, settings, rng)
    far_mm = _far_points(throat, T_canonical_metric, settings, rng)
    sdf_mm, trusted = signed_distances(scan, np.concatenate([near_mm, far_mm]), settings.min_sign_margin)
    n, scale = len(near_mm), T_canonical_metric.scale
    near = DistanceSamples(T_canonical_metric.apply(near_mm), sdf_mm[:n] * scale, trusted[:n])
    far = DistanceSamples(T_canonical_metric.apply(far_mm), sdf_mm[n:] * scale, trusted[n:])
    return SdfSamples(
        _shuffled(surface, np.flatnonzero(is_face), rng),
        _shuffled(surface, np.flatnonzero(~is_face), rng),
        _shuffled(near, np.arange(n), rng),
        far,
    )


def signed_distances(
    scan: ClosedScan, points: Float[ndarray, "n 3"], min_sign_margin: float
) -> tuple[Float[ndarray, " n"], Bool[ndarray, " n"]]:
    """Give signed distances in mm, negative inside, and where they can be trusted."""
    found = SignedDistance(scan.vertices, scan.faces).at(points)
    face = found.closest.face
    rim = boundary_vertices(len(scan.vertices), scan.faces)
    rim[scan.faces[scan.n_scan_faces :].ravel()] = True
    off_rim = np.where(rim[scan.faces[face]], 0.0, found.closest.barycentric).sum(1) > _ON_RIM
    trusted = off_rim & (face < scan.n_scan_faces) & found.trusted(min_sign_margin)
    return found.signed_distance, trusted


def _face_weights(scan: ClosedScan, throat: Plane | None) -> Float[ndarray, " m"]:
    """Give a density per triangle: 0 on fills and where any corner is below the throat."""
    kept = ~scan.is_fill
    if throat is not None:
        kept &= throat.keeps(scan.vertices)[scan.faces].all(1)
    if not kept.any():
        raise SamplingError(
            "nothing of the scan lies above the throat of the fitted template; expected a head there. "
            "The fit has probably failed: look at the scan's quality picture"
        )
    return kept.astype(float)


def _near_points(
    scan: ClosedScan, weights: Float[ndarray, " m"], settings: SampleSdfConfig, rng: np.random.Generator
) -> Float[ndarray, "n_near 3"]:
    """Draw surface points, moved by Gaussian noise of each standard deviation in turn."""
    drawn = sample_surface(scan.vertices, scan.faces, settings.n_near, rng=rng, face_weights=weights)
    points = interpolate(scan.vertices, scan.faces, drawn.face, drawn.barycentric)
    std = np.resize(settings.near_std_mm, len(points))
    return points + std[:, None] * rng.standard_normal(points.shape)


def _far_points(
    throat: Plane | None, T_canonical_metric: Similarity, settings: SampleSdfConfig, rng: np.random.Generator
) -> Float[ndarray, "n_far 3"]:
    """Draw uniformly from the ball around the canonical origin, as far as it lies above the throat."""
    T_metric_canonical = T_canonical_metric.inverse()
    parts, missing = [np.zeros((0, 3))], settings.n_far
    while missing:
        directions = rng.standard_normal((2 * missing, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        radius_mm = settings.far_radius_mm * np.cbrt(rng.random(len(directions)))
        points = T_metric_canonical.translation + radius_mm[:, None] * directions
        if throat is not None:
            points = points[throat.keeps(points)]
        parts.append(points[:missing])
        missing -= len(parts[-1])
    return np.concatenate(parts)


def _near_any(points: Float[ndarray, "n 3"], targets: Float[ndarray, "k 3"], limit_mm: float) -> Bool[ndarray, " n"]:
    """Mark points whose cell of 2 mm has its centre within the limit of any target."""
    cells = np.floor(points / _CELL_MM).astype(np.int64)
    low = cells.min(0, initial=0)
    size = cells.max(0, initial=0) - low + 1
    key = ((cells[:, 0] - low[0]) * size[1] + cells[:, 1] - low[1]) * size[2] + cells[:, 2] - low[2]
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    centres = (cells[first] + 0.5) * _CELL_MM
    found = ClosestPoints(targets, np.zeros((0, 3), np.int64)).query(centres, limit_mm)
    return (found.face >= 0)[inverse]


def _shuffled(samples: _Samples, index: Int[ndarray, " k"], rng: np.random.Generator) -> _Samples:
    order = rng.permutation(index)
    return type(samples)(**{field.name: getattr(samples, field.name)[order] for field in fields(samples)})
