"""Distances between a predicted and a true head, summed up; all lengths in mm, distances not squared.

Accuracy looks from the prediction to the truth, completeness the other way (METHOD 8.1, step 6: the released code of
NPHM, Giebenhain et al., CVPR 2023). Where one side has no point, there is no distance: such numbers are None, never
zero and never NaN.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.geometry.closest import ClosestPoints


@dataclass(frozen=True)
class OrientedPoints:
    """Points of a surface, in mm."""

    position: Float[ndarray, "n 3"]
    normal: Float[ndarray, "n 3"]
    """Unit, outward."""

    def __len__(self) -> int:
        """Give the number of points."""
        return len(self.position)

    def take(self, index: Int[ndarray, " k"]) -> "OrientedPoints":
        """Give some of the points."""
        return OrientedPoints(self.position[index], self.normal[index])


@dataclass(frozen=True)
class Matches:
    """What the points of one side find on the other."""

    distance: Float[ndarray, " n"]
    """To the nearest point there."""
    cosine: Float[ndarray, " n"]
    """Between the normals of both."""


@dataclass(frozen=True)
class PointMetrics:
    """One region of a prediction measured against the truth; None where a side has no point."""

    n_predicted: int
    n_truth: int
    chamfer_l1_mm: float | None
    """Half the sum of accuracy and completeness."""
    chamfer_l2_mm2: float | None
    """Half the sum of the mean squared distances of both ways."""
    normal_consistency: float | None
    """Mean of the cosine's size, both ways alike, in [0, 1]."""
    accuracy_mm: float | None
    """Mean distance from the prediction to the truth."""
    completeness_mm: float | None
    """Mean distance from the truth to the prediction."""
    accuracy_median_mm: float | None
    completeness_median_mm: float | None
    f_scores: dict[float, float]
    """By threshold in mm; 0 without any match."""

    @property
    def is_empty(self) -> bool:
        """Say whether a side has no point, so that nothing could be measured."""
        return self.n_predicted == 0 or self.n_truth == 0

    def columns(self) -> dict[str, float | None]:
        """Give the measures by the name of their column."""
        return {
            "chamfer_l1_mm": self.chamfer_l1_mm,
            "chamfer_l2_mm2": self.chamfer_l2_mm2,
            "normal_consistency": self.normal_consistency,
            **{f"f_score_{limit:g}mm": score for limit, score in self.f_scores.items()},
            "accuracy_mm": self.accuracy_mm,
            "completeness_mm": self.completeness_mm,
            "accuracy_median_mm": self.accuracy_median_mm,
            "completeness_median_mm": self.completeness_median_mm,
        }


def point_metrics(
    predicted: OrientedPoints, truth: OrientedPoints, *, thresholds_mm: tuple[float, ...] = (1.0, 5.0)
) -> PointMetrics:
    """Compare two point sets by nearest neighbours.

    Even two samples of one surface are not zero apart: a set of density d (points a square mm) leaves a mean distance
    of about 0.5 / sqrt(d).
    """
    if not (len(predicted) and len(truth)):
        nothing = Matches(np.zeros(0), np.zeros(0))
        return metrics_of_matches(
            nothing, nothing, thresholds_mm=thresholds_mm, n_predicted=len(predicted), n_truth=len(truth)
        )
    return metrics_of_matches(_nearest(predicted, truth), _nearest(truth, predicted), thresholds_mm=thresholds_mm)


def metrics_of_matches(
    to_truth: Matches,
    to_predicted: Matches,
    *,
    thresholds_mm: tuple[float, ...],
    n_predicted: int | None = None,
    n_truth: int | None = None,
) -> PointMetrics:
    """Sum up what both sides found; the counts are those of the matches unless given."""
    n = len(to_truth.distance) if n_predicted is None else n_predicted
    m = len(to_predicted.distance) if n_truth is None else n_truth
    there, back = to_truth.distance, to_predicted.distance
    return PointMetrics(
        n_predicted=n,
        n_truth=m,
        chamfer_l1_mm=_half_sum(there, back),
        chamfer_l2_mm2=_half_sum(there**2, back**2),
        normal_consistency=_half_sum(np.abs(to_truth.cosine), np.abs(to_predicted.cosine)),
        accuracy_mm=float(there.mean()) if len(there) else None,
        completeness_mm=float(back.mean()) if len(back) else None,
        accuracy_median_mm=float(np.median(there)) if len(there) else None,
        completeness_median_mm=float(np.median(back)) if len(back) else None,
        f_scores={limit: _f_score(there, back, limit) for limit in thresholds_mm},
    )


def _nearest(points: OrientedPoints, others: OrientedPoints) -> Matches:
    # scipy's tree is as fast where both surfaces meet, but a hundred times slower for a fit that went astray.
    found = ClosestPoints(others.position, np.zeros((0, 3), np.int64)).query(points.position)
    return Matches(found.distance, np.einsum("nk,nk->n", points.normal, others.normal[found.face]))


def _half_sum(there: Float[ndarray, " n"], back: Float[ndarray, " m"]) -> float | None:
    if not (len(there) and len(back)):
        return None
    return 0.5 * float(there.mean() + back.mean())


def _f_score(there: Float[ndarray, " n"], back: Float[ndarray, " m"], limit: float) -> float:
    if not (len(there) and len(back)):
        return 0.0
    precision, recall = float((there <= limit).mean()), float((back <= limit).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
