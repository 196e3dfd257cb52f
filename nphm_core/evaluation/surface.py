"""Measure a registered mesh against the scan it was registered to; all lengths in mm, in metric space.

A vertex is *measured* where the registration followed the scan (its weight is positive) and the scan does not end
there; it is *unseen* where the weight is zero: it follows the prior only, and its distance says nothing. Because a
registration could hide errors by giving up on them, the same distances are also summed over every vertex that has
any scan near it, and from the scan to the registration.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from nphm_core.config import EvaluateConfig
from nphm_core.evaluation.scan_distance import MeasuredScan, ScanDistances
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import Mesh, vertex_normals
from nphm_core.geometry.quality import flipped_triangles
from nphm_core.geometry.sampling import interpolate, sample_surface

_N_SCAN_POINTS = 40_000
# Scan points that the registration misses by less are called covered.
_COVERED_MM = 1.0


@dataclass(frozen=True)
class DistanceSummary:
    """Percentiles of distances, in mm; None where there is nothing to sum up."""

    n: int
    median_mm: float | None
    mean_mm: float | None
    p90_mm: float | None
    p95_mm: float | None
    max_mm: float | None


@dataclass(frozen=True)
class RegionMetrics:
    """Distances of one region of the registered mesh to the scan."""

    n_vertices: int
    matched_share: float
    """Share of the vertices that are measured and whose normal agrees with the scan's."""
    unseen_share: float
    """Share of the vertices that follow the prior only, or lie where the scan ends."""
    distance: DistanceSummary
    """Of the measured vertices, to the closest point of the scan."""
    plane: DistanceSummary
    """Of the measured vertices, along the scan's normal only."""
    near_scan: DistanceSummary
    """Of all vertices that have scan near them, whether or not the registration followed it."""


@dataclass(frozen=True)
class SurfaceMetrics:
    """All measures of one registered mesh."""

    regions: dict[str, RegionMetrics]
    scan_to_face: DistanceSummary
    """From points of the scan to the registered mesh, where that is nearest in its face region."""
    covered_share: float | None
    """Share of those points within one millimetre; None without any."""
    folded_faces: int
    """Triangles of the face region that are folded over, and are not in the template."""
    is_cloud: bool

    def to_json(self) -> dict[str, Any]:
        """Give plain numbers for a JSON file, in micrometre steps."""
        return _rounded(asdict(self))


@dataclass(frozen=True)
class VertexErrors:
    """The error of each vertex, for the picture."""

    distance: Float[ndarray, " n_vertices"]
    """To the scan; infinite where there is none near."""
    is_measured: Bool[ndarray, " n_vertices"]
    is_folded: Bool[ndarray, " n_faces"]


def measure_surface(
    scan: Mesh,
    registered: Mesh,
    rest: Float[ndarray, "n_vertices 3"],
    weight: Float[ndarray, " n_vertices"],
    regions: Mapping[str, Bool[ndarray, " n_vertices"]],
    settings: EvaluateConfig,
    *,
    rng: np.random.Generator,
) -> tuple[SurfaceMetrics, VertexErrors]:
    """Measure a registered mesh; `regions` must hold `face`.

    The scan faces outwards; `rest` is the template's own shape in the registered mesh's topology.
    """
    target = MeasuredScan(scan)
    normals = vertex_normals(registered.vertices, registered.faces)
    found = target.distances(registered.vertices, normals, max_distance_mm=settings.max_distance_mm)
    has_scan = np.isfinite(found.distance) & ~found.at_border
    is_measured = has_scan & (weight > 0)
    face = regions["face"]
    folded = flipped_triangles(registered.vertices, rest, registered.faces)
    is_folded = np.zeros(registered.n_faces, bool)
    is_folded[folded] = True
    of_face = face[registered.faces].all(1)
    to_face, covered = _from_scan(scan, registered, of_face, settings, rng)
    metrics = SurfaceMetrics(
        regions={
            name: _region_metrics(mask, found, has_scan, is_measured, settings)
            for name, mask in regions.items()
            if mask.any()
        },
        scan_to_face=to_face,
        covered_share=covered,
        folded_faces=int((is_folded & of_face).sum()),
        is_cloud=target.is_cloud,
    )
    return metrics, VertexErrors(found.distance, is_measured, is_folded)


def distance_summary(distances: Float[ndarray, " n"]) -> DistanceSummary:
    """Sum distances up; infinite ones must be gone already."""
    if not len(distances):
        return DistanceSummary(0, None, None, None, None, None)
    median, p90, p95 = np.percentile(distances, [50, 90, 95])
    return DistanceSummary(
        len(distances), float(median), float(distances.mean()), float(p90), float(p95), float(distances.max())
    )


def _region_metrics(
    mask: ndarray, found: ScanDistances, has_scan: ndarray, is_measured: ndarray, settings: EvaluateConfig
) -> RegionMetrics:
    agrees = found.agreement > np.cos(np.radians(settings.max_normal_angle_degrees))
    measured = mask & is_measured
    n = int(mask.sum())
    return RegionMetrics(
        n_vertices=n,
        matched_share=float((measured & agrees).sum() / n),
        unseen_share=float((mask & ~is_measured).sum() / n),
        distance=distance_summary(found.distance[measured]),
        plane=distance_summary(found.plane[measured]),
        near_scan=distance_summary(found.distance[mask & has_scan & agrees]),
    )


def _from_scan(
    scan: Mesh, registered: Mesh, of_face: ndarray, settings: EvaluateConfig, rng: np.random.Generator
) -> tuple[DistanceSummary, float | None]:
    """Measure from the scan to the face; points nearest to its rim belong to what lies beyond."""
    if scan.n_faces:
        drawn = sample_surface(scan.vertices, scan.faces, _N_SCAN_POINTS, rng=rng)
        points = interpolate(scan.vertices, scan.faces, drawn.face, drawn.barycentric)
    else:
        points = scan.vertices[:: max(1, scan.n_vertices // _N_SCAN_POINTS)]
    found = ClosestPoints(registered.vertices, registered.faces).query(points, settings.max_distance_mm)
    near = found.face >= 0
    distance = found.distance[near][of_face[found.face[near]]]
    return distance_summary(distance), float((distance < _COVERED_MM).mean()) if len(distance) else None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value
