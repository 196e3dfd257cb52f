"""All measures of one fitted head against its true one, by both protocols, each column named by its protocol.

The truth is the whole true head, whatever part of it the fit has seen. No alignment is applied: pose and scale are
part of the fit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from nphm_core.config import EvaluateModelConfig
from nphm_core.evaluation.head_regions import HeadRegions, MeasureError
from nphm_core.evaluation.point_metrics import PointMetrics
from nphm_core.evaluation.smooth_surface import SmoothSurface
from nphm_core.evaluation.surface_protocol import measure_surfaces
from nphm_core.evaluation.view_protocol import measure_views
from nphm_core.geometry.mesh import Mesh


@dataclass(frozen=True)
class FitMeasures:
    """What is known of one fitted head."""

    protocols: dict[str, dict[str, PointMetrics]]
    """By protocol (`released_views`, `surface`) and region (`head`, `face`)."""

    @property
    def failure(self) -> str:
        """Say which regions could not be measured; empty if all were."""
        empty = [
            f"{protocol}.{region}"
            for protocol, regions in self.protocols.items()
            for region, metrics in regions.items()
            if metrics.chamfer_l1_mm is None
        ]
        return f"nothing to compare in {', '.join(empty)}" if empty else ""

    def columns(self) -> dict[str, float | None]:
        """Give every measure by its full name, as in `released_views.face.chamfer_l1_mm`."""
        return {
            f"{protocol}.{region}.{name}": value
            for protocol, regions in self.protocols.items()
            for region, metrics in regions.items()
            for name, value in metrics.columns().items()
        }

    def to_json(self) -> dict[str, Any]:
        """Give plain numbers for a JSON file, in steps of a millionth."""
        return {
            protocol: {
                region: {
                    "n_predicted": metrics.n_predicted,
                    "n_truth": metrics.n_truth,
                    **{k: None if v is None else round(v, 6) for k, v in metrics.columns().items()},
                }
                for region, metrics in regions.items()
            }
            for protocol, regions in self.protocols.items()
        }


def measure_fit(
    predicted: Mesh, truth: Mesh, regions: HeadRegions, settings: EvaluateModelConfig, *, rng: np.random.Generator
) -> FitMeasures:
    """Measure a fitted head; both meshes are in metric space, in mm, and face outwards.

    A prediction without triangles, or away from a region, gives measures without numbers, and `failure` says so. A
    truth without triangles and vertices that are not finite raise MeasureError.
    """
    _check(predicted, "fitted head", "Fit the scan again")
    _check(truth, "true scan", "Export the scan again without them")
    if truth.n_faces == 0:
        raise MeasureError(
            "the true scan has no triangles; expected a surface. Measure against scan_closed.ply, which has one"
        )
    there = SmoothSurface(predicted) if predicted.n_faces else None
    true = SmoothSurface(truth)
    rng_views, rng_surface = rng.spawn(2)
    return FitMeasures(
        {
            "released_views": measure_views(there, true, regions, settings, rng=rng_views),
            "surface": measure_surfaces(there, true, regions, settings, rng=rng_surface),
        }
    )


def _check(mesh: Mesh, name: str, advice: str) -> None:
    n_bad = int((~np.isfinite(mesh.vertices).all(axis=1)).sum())
    if n_bad:
        raise MeasureError(
            f"{n_bad} of {mesh.n_vertices} vertices of the {name} are not finite; expected none. {advice}"
        )
