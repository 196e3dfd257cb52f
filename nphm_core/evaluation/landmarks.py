"""How far the landmarks found in a scan lie from those of its registered mesh, in mm, in metric space.

The registration's last stage does not look at landmarks, so this measures whether the correspondence slid along the
surface. A single landmark is good for 2 to 4 mm only; the median says more.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.evaluation.surface import DistanceSummary, distance_summary
from nphm_core.template.template import LandmarkEmbedding


@dataclass(frozen=True)
class LandmarkResiduals:
    """Found landmarks and where the registered mesh has them."""

    index: Int[ndarray, " n"]
    """Number among MediaPipe's 478."""
    found: Float[ndarray, "n 3"]
    registered: Float[ndarray, "n 3"]
    """NaN for landmarks that the template does not have."""
    weight: Float[ndarray, " n"]
    """As back-projection gave it; 0 for a rejected one."""
    summary: DistanceSummary
    """Over the landmarks that were used and that the template has."""

    def to_json(self) -> dict[str, Any]:
        """Give the summary for a JSON file."""
        numbers = {key: getattr(self.summary, key) for key in ("median_mm", "mean_mm", "p90_mm", "max_mm")}
        rounded = {key: None if value is None else round(value, 3) for key, value in numbers.items()}
        return {"n_used": self.summary.n, "n_found": len(self.index), **rounded}


def landmark_residuals(
    embedding: LandmarkEmbedding,
    registered: Float[ndarray, "n_vertices 3"],
    template_faces: Int[ndarray, "n_faces 3"],
    index: Int[ndarray, " n"],
    found: Float[ndarray, "n 3"],
    weight: Float[ndarray, " n"],
) -> LandmarkResiduals:
    """Compare landmarks; of a subdivided mesh the first vertices are the template's own, and only those are read."""
    own = embedding.by_index(registered, template_faces)
    nowhere = np.full(3, np.nan)
    at = np.array([own.get(int(i), nowhere) for i in index]).reshape(-1, 3)
    distance = np.linalg.norm(found - at, axis=1)
    counted = (weight > 0) & np.isfinite(distance)
    return LandmarkResiduals(index, found, at, weight, distance_summary(distance[counted]))
