"""The protocol `surface`: points spread evenly over both surfaces, each measured to the other surface itself.

Unlike `released_views` it weighs every square mm alike, it has no floor that comes from comparing samples with
samples, and no error is too large to count as face: a predicted point belongs to the region of the true point that is
nearest to it. Points that none of the views' cameras sees, such as those in a closed mouth, are left out (but not as
targets) unless `keep_hidden` is set: some models have them and some have not. Where the true surface ends, nothing is
known: predicted points whose nearest true point lies on a border of the truth are left out.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from nphm_core.config import EvaluateModelConfig
from nphm_core.evaluation.head_regions import HeadRegions
from nphm_core.evaluation.point_metrics import Matches, OrientedPoints, PointMetrics, metrics_of_matches
from nphm_core.evaluation.smooth_surface import SmoothSurface
from nphm_core.evaluation.view_protocol import view_cameras
from nphm_core.geometry.closest import Closest
from nphm_core.geometry.mesh import boundary_vertices
from nphm_core.geometry.sampling import sample_surface
from nphm_core.registration.cameras import Camera

# Less than this of the cosine to a camera is edge-on.
_MIN_FACING = 0.01
_TOUCHES_MM = 0.02
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
    wanted = _sample_head(truth, regions, settings, rng_truth)
    found = None if predicted is None else _sample_head(predicted, regions, settings, rng_predicted)
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
    to_truth, nearest = _match(found, truth)
    to_predicted, _ = _match(wanted, predicted)
    is_known = ~_on_border(truth, nearest)
    members = {
        "head": (is_known, np.ones(len(wanted), bool)),
        "face": (is_known & regions.in_face(nearest.point), regions.in_face(wanted.position)),
    }
    return {
        name: metrics_of_matches(
            _some(to_truth, of_found), _some(to_predicted, of_wanted), thresholds_mm=settings.thresholds_mm
        )
        for name, (of_found, of_wanted) in members.items()
    }


def is_seen(surface: SmoothSurface, points: OrientedPoints, cameras: Sequence[Camera]) -> Bool[ndarray, " n"]:
    """Mark points of a surface that face one of the cameras with nothing of the surface between."""
    eyes = np.stack([camera.position for camera in cameras])
    facing = np.empty((len(points), len(eyes)))
    for k, eye in enumerate(eyes):
        away = eye - points.position
        facing[:, k] = np.einsum("nd,nd->n", away, points.normal) / np.linalg.norm(away, axis=1)
    # The camera that a point faces most sees it, as a rule.
    order = np.argsort(-facing, axis=1)
    facing = np.take_along_axis(facing, order, axis=1)
    seen = np.zeros(len(points), bool)
    for rank in range(len(cameras)):
        asked = np.flatnonzero(~seen & (facing[:, rank] > _MIN_FACING))
        if not len(asked):
            break
        asked = asked[np.argsort(order[asked, rank], kind="stable")]
        origins = eyes[order[asked, rank]]
        offset = points.position[asked] - origins
        hits = surface.caster.cast(origins, offset)
        seen[asked] = hits.distance > np.linalg.norm(offset, axis=1) - _TOUCHES_MM
    return seen


def _sample_head(
    surface: SmoothSurface, regions: HeadRegions, settings: EvaluateModelConfig, rng: np.random.Generator
) -> OrientedPoints | None:
    """Draw evenly from what lies above the throat; None if nothing does."""
    above = regions.in_head(surface.vertices)[surface.faces].any(axis=1)
    if not above.any():
        return None
    weights = above.astype(np.float64)
    drawn = sample_surface(surface.vertices, surface.faces, settings.n_points, rng=rng, face_weights=weights)
    points = surface.at(drawn.face, drawn.barycentric)
    points = points.take(np.flatnonzero(regions.in_head(points.position)))
    if settings.keep_hidden:
        return points
    return points.take(np.flatnonzero(is_seen(surface, points, view_cameras(regions.T_canonical_metric, settings))))


def _match(points: OrientedPoints, surface: SmoothSurface) -> tuple[Matches, Closest]:
    found = surface.closest.query(points.position)
    there = surface.at(found.face, found.barycentric)
    return Matches(found.distance, np.einsum("nk,nk->n", points.normal, there.normal)), found


def _on_border(surface: SmoothSurface, found: Closest) -> Bool[ndarray, " n"]:
    """Mark points on an edge or a corner all of whose vertices lie on the border."""
    border = boundary_vertices(len(surface.vertices), surface.faces)[surface.faces[found.face]]
    on = found.barycentric > _ON_BORDER
    return ~(on & ~border).any(axis=1) & ~on.all(axis=1)


def _some(matches: Matches, mask: Bool[ndarray, " n"]) -> Matches:
    return Matches(matches.distance[mask], matches.cosine[mask])
