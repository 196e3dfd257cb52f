"""The protocol `released_views`: point sets as the released code of NPHM compares them (METHOD 8.1, steps 1 to 5).

Ten cameras around the head see its outside only, so that what lies hidden in the mouth counts for nothing. The released
code renders whole pictures, keeps the pixels that pass its tests, and draws points from them with replacement. Here
pixels are drawn first, and only they are cast, until enough of them pass: that is the same distribution. Pixels beyond
the rectangle in which a region can appear never pass and are not drawn. Differences: normals are interpolated from the
vertices', and the throat is cut where our training samples end, because FLAME's vertex numbers mean nothing on other
templates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from nphm_core.config import EvaluateModelConfig
from nphm_core.evaluation.head_regions import FACE_DISTANCE_MM, HeadRegions
from nphm_core.evaluation.point_metrics import OrientedPoints, PointMetrics, point_metrics
from nphm_core.evaluation.smooth_surface import SmoothSurface
from nphm_core.registration.cameras import Camera, look_at
from nphm_core.spaces import Similarity

# 0.6 in FLAME's unit, which is a quarter of the canonical one.
_CAMERA_DISTANCE_CANONICAL = 2.4
_NEAR_CANONICAL, _FAR_CANONICAL = 0.4, 8.0
# For a picture of 1280 rows.
_FOCAL_SHARE = 2440 / 1280
_COLUMN_SHARE = 0.75
_MAX_FACING = -0.01
# A region that fewer pixels pass for is drawn again from those found.
_MAX_RAYS_A_POINT = 8

_Passes = Callable[[Float[ndarray, "n 3"]], Bool[ndarray, " n"]]


@dataclass(frozen=True)
class Window:
    """The rectangle of a picture in which something can be seen."""

    left: int
    top: int
    width: int
    height: int

    @property
    def n_pixels(self) -> int:
        """Number of its pixels."""
        return self.width * self.height

    def pixels(self, index: Int64[ndarray, " n"]) -> Float[ndarray, "n 2"]:
        """Give centres of pixels, numbered row by row."""
        row, column = np.divmod(index, self.width)
        return np.stack([self.left + column + 0.5, self.top + row + 0.5], axis=1)


def measure_views(
    predicted: SmoothSurface | None,
    truth: SmoothSurface,
    regions: HeadRegions,
    settings: EvaluateModelConfig,
    *,
    rng: np.random.Generator,
) -> dict[str, PointMetrics]:
    """Compare `head` and `face`; no predicted surface gives metrics without numbers."""
    # The truth's points do not depend on the prediction: every model meets the same.
    rng_truth, rng_predicted = rng.spawn(2)
    wanted = sample_views(truth, regions, settings, rng=rng_truth)
    nothing = OrientedPoints(np.zeros((0, 3)), np.zeros((0, 3)))
    if predicted is None:
        found = dict.fromkeys(wanted, nothing)
    else:
        found = sample_views(predicted, regions, settings, rng=rng_predicted)
    return {name: point_metrics(found[name], wanted[name], thresholds_mm=settings.thresholds_mm) for name in wanted}


def sample_views(
    surface: SmoothSurface, regions: HeadRegions, settings: EvaluateModelConfig, *, rng: np.random.Generator
) -> dict[str, OrientedPoints]:
    """Draw `settings.n_points` seen points of `head` and of `face`; none where a region is not seen at all."""
    cameras = view_cameras(regions.T_canonical_metric, settings)
    kept = np.zeros(len(surface.vertices), bool)
    kept[surface.faces[regions.in_head(surface.vertices)[surface.faces].any(axis=1)].ravel()] = True
    # A point of the face lies in the ball around one of the face's vertices, and that in a cube.
    corners = FACE_DISTANCE_MM * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    windows = {
        "head": [_window(camera, surface.vertices[kept]) for camera in cameras],
        "face": [
            _window(camera, (regions.face_points[:, None] + corners @ camera.axes).reshape(-1, 3)) for camera in cameras
        ],
    }
    passes: dict[str, _Passes] = {"head": regions.in_head, "face": regions.in_face}
    scale = regions.T_canonical_metric.scale
    return {
        name: _draw(surface, cameras, windows[name], passes[name], scale, settings.n_points, rng) for name in windows
    }


def view_cameras(T_canonical_metric: Similarity, settings: EvaluateModelConfig) -> list[Camera]:
    """Give the cameras in metric space: a Fibonacci sphere about the canonical origin, less its poles."""
    T_metric_canonical = T_canonical_metric.inverse()
    height = settings.view_height
    return [
        look_at(
            T_metric_canonical.translation,
            T_metric_canonical.apply_directions(direction[None])[0],
            T_metric_canonical.apply_directions(np.array([[0.0, 1.0, 0.0]]))[0],
            _CAMERA_DISTANCE_CANONICAL * T_metric_canonical.scale,
            _FOCAL_SHARE * height,
            round(_COLUMN_SHARE * height),
            height,
        )
        for direction in fibonacci_directions(settings.n_views + 2)[1:-1]
    ]


def fibonacci_directions(n: int) -> Float[ndarray, "n 3"]:
    """Give points of the unit sphere, evenly spread along a spiral from pole to pole of the y axis."""
    y = np.linspace(1.0, -1.0, n)
    angle = np.pi * (3.0 - np.sqrt(5.0)) * np.arange(n)
    radius = np.sqrt(np.maximum(1.0 - y**2, 0.0))
    return np.stack([radius * np.cos(angle), y, radius * np.sin(angle)], axis=1)


def see(
    surface: SmoothSurface, camera: Camera, pixels: Float[ndarray, "n 2"], scale: float
) -> tuple[OrientedPoints, Int64[ndarray, " k"]]:
    """Give what a camera sees through points of its picture, and through which of them.

    What is met edge-on or from inside is not seen. `scale` is that of the map from metric to canonical space.
    """
    origins, directions = camera.rays(pixels)
    hits = surface.caster.cast(origins, directions)
    depth = hits.distance * -(directions @ camera.axes[2])
    met = np.flatnonzero(hits.hit & (depth >= _NEAR_CANONICAL / scale) & (depth <= _FAR_CANONICAL / scale))
    points = surface.at(hits.face[met], hits.barycentric[met])
    faces_it = np.einsum("nk,nk->n", directions[met], points.normal) < _MAX_FACING
    return points.take(np.flatnonzero(faces_it)), met[faces_it]


def _window(camera: Camera, points: Float[ndarray, "n 3"]) -> Window:
    if not len(points):
        return Window(0, 0, 0, 0)
    place = camera.project(points)
    if np.isnan(place).any():
        # Something reaches behind the camera: it may appear anywhere.
        return Window(0, 0, camera.width, camera.height)
    size = np.array([camera.width, camera.height])
    low = np.clip(np.floor(place.min(axis=0)), 0, size).astype(int)
    high = np.clip(np.ceil(place.max(axis=0)), low, size).astype(int)
    return Window(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))


def _draw(
    surface: SmoothSurface,
    cameras: Sequence[Camera],
    windows: Sequence[Window],
    passes: _Passes,
    scale: float,
    n: int,
    rng: np.random.Generator,
) -> OrientedPoints:
    """Draw pixels of all windows alike, with replacement, until n of them pass; give their points."""
    starts = np.concatenate([[0], np.cumsum([window.n_pixels for window in windows])])
    parts: list[OrientedPoints] = [OrientedPoints(np.zeros((0, 3)), np.zeros((0, 3)))]
    found = cast = 0
    while starts[-1] and found < n and cast < _MAX_RAYS_A_POINT * n:
        share = max(found, 1) / cast if cast else 0.5
        n_rays = int(np.clip((n - found) / share * 1.05, 1000, 2 * n))
        # In order, neighbouring rays meet the same triangles. The order of the draws does not matter.
        index = np.sort(rng.integers(starts[-1], size=n_rays))
        for k, (camera, window) in enumerate(zip(cameras, windows, strict=True)):
            mine = index[np.searchsorted(index, starts[k]) : np.searchsorted(index, starts[k + 1])] - starts[k]
            points, _ = see(surface, camera, window.pixels(mine), scale)
            parts.append(points.take(np.flatnonzero(passes(points.position))))
            found += len(parts[-1])
        cast += n_rays
    all_points = OrientedPoints(
        np.concatenate([part.position for part in parts]), np.concatenate([part.normal for part in parts])
    )
    if found >= n:
        return all_points.take(np.sort(rng.permutation(found)[:n]))
    return all_points.take(np.sort(rng.integers(found, size=n)) if found else np.zeros(0, np.int64))
