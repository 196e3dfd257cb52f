"""The protocol `surface`: points spread evenly over both surfaces, each measured to the other surface itself.

Unlike `released_views` it sees what is hidden (the mouth's inside), it has no floor that comes from comparing samples
with samples, and no error is too large to count as face: a predicted point belongs to the region of the true point
that is nearest to it. Where the true surface ends, nothing is known: predicted points whose nearest true point lies on
a border of the truth are left out.
"""

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from nphm_core.config import EvaluateModelConfig
from nphm_core.evaluation.head_regions import HeadRegions
from nphm_core.evaluation.point_metrics import Matches, OrientedPoints, PointMetrics, metrics_of_matches
from nphm_core.evaluation.smooth_surface import SmoothSurface
from nphm_core.geometry.mesh import boundary_vertices
from nphm_core.geometry.sampling import sample_surface

# Barycentric weight below which a point is taken to lie on the opposite edge.
_ON_BORDER = 1e-9


def measure_surfaces(
    predicted: SmoothSurface | None,
    truth: SmoothSurface,
    regions: HeadRegions,
    settings: EvaluateModelConfig,
    *,
    rng: np.random.Generator,
) -> dict[str, PointMetrics]:
    """Compare `head` and `face`; no predicted surface gives metrics without numbers."""
    rng_truth, rng_predicted = rng.spawn(2)
    wanted = _sample_head(truth, regions, settings.n_points, rng_truth)
    found = None if predicted is None else _sample_head(predicted, regions, settings.n_points, rng_predicted)
    if predicted is None or found is None or wanted is None:
        nothing = Matches(np.zeros(0), np.zeros(0))
        empty = metrics_of_matches(
            nothing,
            nothing,
            thresholds_mm=settings.thresholds_mm,
            n_predicted=0 if found is None else len(found),
            n_truth=0 if wanted is None else len(wanted),
        )
        return {"head": empty, "face": empty}
    to_truth, nearest, is_known = _match(found, truth)
    to_predicted, _, _ = _match(wanted, predicted)
    members = {
        "head": (is_known, np.ones(len(wanted), bool)),
        "face": (is_known & regions.in_face(nearest), regions.in_face(wanted.position)),
    }
    return {
        name: metrics_of_matches(
            _some(to_truth, of_found), _some(to_predicted, of_wanted), thresholds_mm=settings.thresholds_mm
        )
        for name, (of_found, of_wanted) in members.items()
    }


def _sample_head(
    surface: SmoothSurface, regions: HeadRegions, n: int, rng: np.random.Generator
) -> OrientedPoints | None:
    """Draw evenly from what lies above the throat; None if nothing does."""
    above = regions.in_head(surface.vertices)[surface.faces].any(axis=1)
    if not above.any():
        return None
    drawn = sample_surface(surface.vertices, surface.faces, n, rng=rng, face_weights=above.astype(np.float64))
    points = surface.at(drawn.face, drawn.barycentric)
    return points.take(np.flatnonzero(regions.in_head(points.position)))


def _match(
    points: OrientedPoints, surface: SmoothSurface
) -> tuple[Matches, Float[ndarray, "n 3"], Bool[ndarray, " n"]]:
    """Give the matches on a surface, the closest points, and whether the surface goes on around them."""
    found = surface.closest.query(points.position)
    there = surface.at(found.face, found.barycentric)
    cosine = np.einsum("nk,nk->n", points.normal, there.normal)
    goes_on = ~_on_border(surface, found.face, found.barycentric)
    return Matches(found.distance, cosine), there.position, goes_on


def _on_border(
    surface: SmoothSurface, face: Int64[ndarray, " n"], barycentric: Float[ndarray, "n 3"]
) -> Bool[ndarray, " n"]:
    """Mark points on an edge or a corner all of whose vertices lie on the border."""
    border = boundary_vertices(len(surface.vertices), surface.faces)[surface.faces[face]]
    on = barycentric > _ON_BORDER
    return ~(on & ~border).any(axis=1) & ~on.all(axis=1)


def _some(matches: Matches, mask: Bool[ndarray, " n"]) -> Matches:
    return Matches(matches.distance[mask], matches.cosine[mask])
