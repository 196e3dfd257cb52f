"""Stage `landmarks`: 2D landmarks in every view, and how well the views agree.

Lines of sight through one landmark meet near one point. Views whose landmarks lie far from where the others put them
are dropped, single outliers as well. What is left measures the trust: the spread, in pixels and in mm on a head of
average size, since the scan's unit is not known yet.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from nphm_core.config import LandmarksConfig
from nphm_core.errors import LandmarkError
from nphm_core.registration.cameras import Camera
from nphm_core.registration.face_detector import CONTOUR, N_LANDMARKS, FaceDetector

MIN_VIEWS = 3
EYE_CORNERS = (33, 263)
EYE_DISTANCE_MM = 90.0
"""Between the outer corners of the eyes of an average adult."""
_VIEW_LIMIT = 3.0
"""A view whose median residual is above this many times that of the median view is wrong,"""
_VIEW_FLOOR = 0.04
"""unless it is below this share of the distance between the eyes."""


@dataclass(frozen=True)
class ViewLandmarks:
    """The landmarks of several views of one face; views and landmarks in the order given and of MediaPipe."""

    points_px: Float[ndarray, "n_views 468 2"]
    """nan where a view shows no face."""
    residual_px: Float[ndarray, "n_views 468"]
    """Distance to where the views together put the landmark; nan where a view shows no face."""
    used: Bool[ndarray, " n_views"]
    """Views that count."""
    spread_px: Float[ndarray, " 468"]
    """Median residual over the used views."""
    points: Float[ndarray, "468 3"]
    """Where the lines of sight meet, in scan space; near the surface, not on it."""
    eye_distance: float
    """Between the outer eye corners, in scan units."""
    px_per_unit: float
    """Pixels of the frontal picture for a scan unit, at the eyes."""

    @property
    def is_contour(self) -> Bool[ndarray, " 468"]:
        """Mark the landmarks of the face oval, which serve no fit."""
        out = np.zeros(N_LANDMARKS, bool)
        out[list(CONTOUR)] = True
        return out

    @property
    def quality(self) -> dict[str, Any]:
        """Give the numbers that say how far these landmarks can be trusted; the oval is left out."""
        spread = self.spread_px[~self.is_contour]
        mm = EYE_DISTANCE_MM / (self.eye_distance * self.px_per_unit)
        return {
            "n_views": int(np.isfinite(self.points_px[:, 0, 0]).sum()),
            "n_views_used": int(self.used.sum()),
            "spread_median_px": float(np.median(spread)),
            "spread_p95_px": float(np.quantile(spread, 0.95)),
            "spread_median_mm": float(np.median(spread)) * mm,
        }

    def to_json(self) -> dict[str, Any]:
        """Give plain facts for landmarks2d.json; a view without a face has null for its points."""
        seen = np.isfinite(self.points_px[:, 0, 0])
        rows = zip(self.points_px, self.residual_px, seen, strict=True)
        found = [(points, residual) if ok else (None, None) for points, residual, ok in rows]
        return {
            "index": np.arange(N_LANDMARKS),
            "points_px": [points for points, _ in found],
            "residual_px": [residual for _, residual in found],
            "used": self.used,
            "spread_px": self.spread_px,
            "is_contour": self.is_contour,
            "points": self.points,
            "eye_distance": self.eye_distance,
            "px_per_unit": self.px_per_unit,
            "quality": self.quality,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ViewLandmarks":
        """Read what `to_json` gave."""
        points = [np.full((N_LANDMARKS, 2), np.nan) if p is None else np.array(p, float) for p in data["points_px"]]
        residual = [np.full(N_LANDMARKS, np.nan) if r is None else np.array(r, float) for r in data["residual_px"]]
        return cls(
            np.stack(points),
            np.stack(residual),
            np.array(data["used"], bool),
            np.array(data["spread_px"], float),
            np.array(data["points"], float),
            float(data["eye_distance"]),
            float(data["px_per_unit"]),
        )


def detect_landmarks(
    images: UInt8[ndarray, "n_views height width 3"],
    cameras: tuple[Camera, ...],
    settings: LandmarksConfig,
    *,
    is_coloured: bool,
) -> ViewLandmarks:
    """Detect landmarks in all views and find what they agree on; the first view is the frontal one.

    Too few views with a face, or a spread above the limit, raise LandmarkError.
    """
    points = np.full((len(images), N_LANDMARKS, 2), np.nan)
    # Measured: the refined model is better on colour (2.5 mm against 3), worse on grey (4.7 against 3).
    with FaceDetector(refine=is_coloured, min_confidence=settings.min_confidence) as detector:
        for k, image in enumerate(images):
            faces = detector.detect(image)
            if faces:
                points[k] = faces[0]
    landmarks = agree(points, cameras)
    spread = landmarks.quality["spread_median_px"]
    if spread > settings.max_spread_px:
        raise LandmarkError(
            f"the landmarks of {landmarks.used.sum()} views differ by {spread:.1f} pixels; at most"
            f" {settings.max_spread_px:g} were expected. Look at the frontal picture: is it one undamaged face? If so,"
            " raise landmarks.max_spread_px; if not, set exclude for the scan in the scan table"
        )
    return landmarks


def agree(points_px: Float[ndarray, "n_views 468 2"], cameras: tuple[Camera, ...]) -> ViewLandmarks:
    """Find the views that agree, the worst dropped until all do; fewer than three raise LandmarkError."""
    used = np.isfinite(points_px[:, 0, 0])
    inner = np.ones(N_LANDMARKS, bool)
    inner[list(CONTOUR)] = False
    while True:
        if used.sum() < MIN_VIEWS:
            raise LandmarkError(
                f"only {int(used.sum())} of {len(points_px)} views of the face give landmarks that agree; {MIN_VIEWS}"
                " were expected. Look at the frontal picture: if it shows no whole face, set exclude for the scan in"
                " the scan table"
            )
        points = triangulate(points_px, cameras, used)
        residual = np.stack(
            [np.linalg.norm(c.project(points) - p, axis=1) for c, p in zip(cameras, points_px, strict=True)]
        )
        by_view = np.where(used, np.median(residual[:, inner], axis=1), -1.0)
        eyes = points[list(EYE_CORNERS)]
        eye_distance = float(np.linalg.norm(eyes[1] - eyes[0]))
        px_per_unit = float(cameras[0].focal_px / cameras[0].depth(eyes).mean())
        worst = int(np.argmax(by_view))
        limit = max(_VIEW_LIMIT * float(np.median(by_view[used])), _VIEW_FLOOR * eye_distance * px_per_unit)
        if by_view[worst] <= limit:
            break
        used[worst] = False
    spread = np.median(residual[used], axis=0)
    return ViewLandmarks(points_px, residual, used, spread, points, eye_distance, px_per_unit)


def triangulate(
    points_px: Float[ndarray, "n_views n 2"], cameras: tuple[Camera, ...], used: Bool[ndarray, " n_views"]
) -> Float[ndarray, "n 3"]:
    """Give the points nearest to the lines of sight of the used views; lines that miss by much lose their weight."""
    chosen = np.flatnonzero(used)
    rays = [cameras[k].rays(points_px[k]) for k in chosen]
    origins, directions = (np.stack(items) for items in zip(*rays, strict=True))
    across = np.eye(3) - directions[..., :, None] * directions[..., None, :]
    weight = np.ones(directions.shape[:2])
    for _ in range(6):
        matrix = np.einsum("vn,vnij->nij", weight, across)
        right = np.einsum("vn,vnij,vnj->ni", weight, across, origins)
        points = np.linalg.solve(matrix, right[..., None])[..., 0]
        miss = np.linalg.norm(np.einsum("vnij,vnj->vni", across, points - origins), axis=2)
        # Geman-McClure at twice the usual miss of all landmarks.
        scale = 2 * max(float(np.median(miss)), 1e-12)
        weight = 1 / (1 + (miss / scale) ** 2) ** 2
    return points
