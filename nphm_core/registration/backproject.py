"""Stage `backproject`: from landmarks in pictures to landmarks on the scan, its unit, and its pose.

Rays carry the landmarks of every used view to the surface. Hits at depth jumps and on grazing surface do not count;
what the views agree on is put back onto the surface. Comparing it with the template's landmarks gives the unit (the
one in which the face has a human size), the head's pose, and the last outliers. Points of the face oval are left out.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.config import BackprojectConfig
from nphm_core.errors import LandmarkError, ScanUnitError
from nphm_core.geometry.rays import RayCaster
from nphm_core.registration.cameras import Camera
from nphm_core.registration.drawable import Drawable
from nphm_core.registration.face_detector import CONTOUR
from nphm_core.registration.face_geometry import FACE_SHAPE
from nphm_core.registration.landmarks import EYE_DISTANCE_MM, ViewLandmarks
from nphm_core.registration.render import view_direction_weights
from nphm_core.spaces import MM_PER_UNIT, Similarity, align_points

SIZE_RANGE = (0.72, 1.38)
"""Sizes of a face relative to the template's average adult: from small children to the largest adults."""
_AROUND_MM = 1.5
"""How far around a ray the depth is looked at."""
_MIN_COSINE = 0.25
_HALF_TRUST_MM = 3.0
"""Spread over the views at which a landmark counts half."""
_MAX_OFF_TEMPLATE_MM = 16.0
"""A landmark farther than this from the aligned template's is wrong: no expression or identity explains it."""
_MAX_OFF_JAW_MM = 45.0
"""The same below the nose, where an open mouth carries landmarks far down."""
_SUBNASALE = 2
_MIN_GROUP_SHARE = 0.5
_FOREHEAD_MM = np.array([[x, 38.0, 17.0] for x in (-25.0, -15.0, 0.0, 15.0, 25.0)])
"""On the forehead 15 mm above the brows, in the average face's frame; face masks reach 45 mm."""
_FOREHEAD_DEPTH_MM = 20.0
GROUPS: dict[str, tuple[int, ...]] = {
    "brows": (70, 63, 105, 66, 107, 46, 53, 52, 65, 55, 336, 296, 334, 293, 300, 285, 295, 282, 283, 276),
    "eyes": (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7,
             263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249),
    "nose": (168, 6, 197, 195, 5, 4, 1, 2, 98, 327, 48, 278, 64, 294),
    "mouth": (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375),
}  # fmt: skip
"""Parts of a face and their MediaPipe landmarks."""
CERTAIN_GROUPS = ("eyes", "nose", "mouth")
"""Parts that the views must agree on; on a grey scan they often do not agree on brows."""


@dataclass(frozen=True)
class SurfacePoints:
    """Landmarks on the scan's surface, as the views agree on them; one entry for each landmark of a list."""

    points: Float[ndarray, "n 3"]
    """Scan space; nan where no two views agree."""
    face: Int[ndarray, " n"]
    """Triangle; -1 where no two views agree."""
    barycentric: Float[ndarray, "n 3"]
    spread: Float[ndarray, " n"]
    """Median distance of the views' hits to the point, in scan units."""
    seen: Int[ndarray, " n"]
    """Views in which the landmark lies on smooth surface that faces the camera, whether the views agree or not."""


@dataclass(frozen=True)
class ScanLandmarks3D:
    """Landmarks of a scan in metric space, its unit and its pose."""

    unit: str
    """A unit of spaces.MM_PER_UNIT, `arbitrary`, or `declared` for a data set's own."""
    mm_per_scan_unit: float
    index: Int[ndarray, " n"]
    """MediaPipe's numbers."""
    points_mm: Float[ndarray, "n 3"]
    face: Int[ndarray, " n"]
    """Triangle of the scan; of a point cloud, the point nearest to the landmark, with barycentric weights 1, 0, 0."""
    barycentric: Float[ndarray, "n 3"]
    spread_mm: Float[ndarray, " n"]
    weight: Float[ndarray, " n"]
    """In (0, 1], from the spread, for detected ones; the template's own weights are not in it."""
    T_head_metric: Similarity
    """To the upright head at the template's origin, mm; scale 1."""
    size: float
    """Size of the face relative to the template's; 1 by choice where the unit is arbitrary."""
    residual_mm: float
    """Median distance to the rigidly aligned template's landmarks."""
    given: Bool[ndarray, " n"] | None = None
    """Those that a person gave, of weight GIVEN_WEIGHT and no spread; None without a landmark file."""

    @property
    def quality(self) -> dict[str, Any]:
        """Give the numbers for the record."""
        return ({} if self.given is None else {"n_given": int(self.given.sum())}) | {
            "n_landmarks": len(self.index),
            "spread_median_mm": float(np.median(self.spread_mm)),
            "template_residual_mm": self.residual_mm,
            "size": self.size,
            "unit": self.unit,
            "mm_per_scan_unit": self.mm_per_scan_unit,
        }

    def to_json(self) -> dict[str, Any]:
        """Give plain facts for landmarks3d.json."""
        return ({} if self.given is None else {"given": self.given}) | {
            "unit": self.unit,
            "mm_per_scan_unit": self.mm_per_scan_unit,
            "index": self.index,
            "points_mm": self.points_mm,
            "face": self.face,
            "barycentric": self.barycentric,
            "spread_mm": self.spread_mm,
            "weight": self.weight,
            "T_head_metric": self.T_head_metric.to_json(),
            "quality": self.quality,
        }


def backproject(
    drawable: Drawable,
    caster: RayCaster,
    cameras: tuple[Camera, ...],
    landmarks: ViewLandmarks,
    template_points_mm: dict[int, Float[ndarray, " 3"]],
    template_weight: dict[int, float],
    settings: BackprojectConfig,
    *,
    declared_mm_per_unit: float | None = None,
    has_unit: bool = True,
) -> ScanLandmarks3D:
    """Put the landmarks onto the scan, in mm.

    The template's landmarks are those of its mean head, by MediaPipe's numbers. A declared unit that gives no human
    face raises ScanUnitError; a part of the face that is not on the scan raises LandmarkError. Without `has_unit` the
    face gets the template's size.
    """
    index = np.array([i for i in sorted(template_points_mm) if i not in CONTOUR and template_weight[i] > 0])
    rough_mm = EYE_DISTANCE_MM / landmarks.eye_distance
    found = to_surface(drawable, caster, cameras, landmarks, index, settings, mm_per_unit=rough_mm)
    trust = 1 / (1 + (found.spread * rough_mm / _HALF_TRUST_MM) ** 2)
    good = np.flatnonzero((found.face >= 0) & (found.spread * rough_mm <= settings.max_spread_mm))
    _check_parts(index[found.seen >= 2], index, tuple(GROUPS))
    _check_parts(index[good], index, CERTAIN_GROUPS)
    target = np.array([template_points_mm[int(i)] for i in index[good]])
    weight = trust[good] * np.array([template_weight[int(i)] for i in index[good]])
    scan_units_per_mm = robust_alignment(target, found.points[good], weight, with_scale=True).scale
    unit, mm_per_unit = choose_unit(scan_units_per_mm, declared_mm_per_unit, has_unit=has_unit)
    points_mm = found.points[good] * mm_per_unit
    pose = robust_alignment(points_mm, target, weight, with_scale=False)
    off = np.linalg.norm(pose.apply(points_mm) - target, axis=1)
    near = off <= off_limits(index[good], template_points_mm)
    kept = good[near]
    _check_parts(index[kept], index, CERTAIN_GROUPS)
    _check_forehead(caster, index[kept], found.points[kept])
    size = 1.0 if unit == "arbitrary" else scan_units_per_mm * mm_per_unit
    spread_mm = found.spread[kept] * mm_per_unit
    where = _of_scan(drawable, found, kept)
    residual_mm = float(np.median(off))
    return ScanLandmarks3D(
        unit, mm_per_unit, index[kept], points_mm[near], *where, spread_mm, trust[kept], pose, size, residual_mm
    )


def to_surface(
    drawable: Drawable,
    caster: RayCaster,
    cameras: tuple[Camera, ...],
    landmarks: ViewLandmarks,
    index: Int[ndarray, " n"],
    settings: BackprojectConfig,
    *,
    mm_per_unit: float,
) -> SurfacePoints:
    """Find what the views agree on; `mm_per_unit` scales the settings' limits and may be rough."""
    used = np.flatnonzero(landmarks.used)
    hits = [
        _view_hits(drawable, caster, cameras[k], landmarks.points_px[k][index], settings, mm_per_unit) for k in used
    ]
    points = np.stack([hit[0] for hit in hits])
    cosine = np.stack([hit[1] for hit in hits])
    weight = view_direction_weights(cameras)[used][:, None] * np.where(cosine > _MIN_COSINE, cosine, 0.0)
    seen = (weight > 0).sum(axis=0)
    limit = settings.max_spread_mm / mm_per_unit
    consensus, weight = _consensus(points, weight, limit)
    n_views = (weight > 0).sum(axis=0)
    distance = np.where(weight > 0, np.linalg.norm(points - consensus, axis=2), np.nan)
    spread = np.full(len(index), np.inf)
    agreed = n_views >= 2
    spread[agreed] = np.nanmedian(distance[:, agreed], axis=0)
    face, barycentric, snapped = _snapped(drawable, caster, cameras[0], consensus, agreed, limit)
    return SurfacePoints(snapped, face, barycentric, np.where(face >= 0, spread, np.inf), seen)


def _view_hits(
    drawable: Drawable,
    caster: RayCaster,
    camera: Camera,
    pixels: Float[ndarray, "n 2"],
    settings: BackprojectConfig,
    mm_per_unit: float,
) -> tuple[Float[ndarray, "n 3"], Float[ndarray, " n"]]:
    """Give hits and the cosine of incidence; a cosine of 0 marks misses and depth jumps."""
    origins, directions = camera.rays(pixels)
    hits = caster.cast(origins, directions)
    hit = hits.face >= 0
    points = origins + directions * np.where(hit, hits.distance, 0.0)[:, None]
    corner = drawable.faces[np.where(hit, hits.face, 0)]
    normals = np.einsum("nk,nkc->nc", hits.barycentric, drawable.normals[corner])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    cosine = np.abs(np.einsum("ij,ij->i", normals, directions))
    depth = np.where(hit, camera.depth(points), np.nan)
    radius_px = _AROUND_MM / mm_per_unit * camera.focal_px / np.nanmedian(depth) if hit.any() else 1.0
    around = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], float) * radius_px
    ring_o, ring_d = camera.rays((pixels[:, None] + around).reshape(-1, 2))
    ring = caster.cast(ring_o, ring_d)
    distance = ring.distance.reshape(len(pixels), 4)
    whole = hit & np.isfinite(distance).all(axis=1)
    jump = np.full(len(pixels), np.inf)
    jump[whole] = np.abs(distance[whole] - hits.distance[whole, None]).max(axis=1)
    smooth = jump * mm_per_unit <= settings.max_jump_mm
    return points, np.where(smooth, cosine, 0.0)


def _consensus(
    points: Float[ndarray, "n_views n 3"], weight: Float[ndarray, "n_views n"], limit: float
) -> tuple[Float[ndarray, "n 3"], Float[ndarray, "n_views n"]]:
    """Give weighted medians, refined to means of the hits near them, and the weights left; 0 for outliers.

    A view that looks past the nose hits the cheek: such hits lie far from the others', whose median they cannot move.
    """
    order = np.argsort(points, axis=0)
    sorted_weight = np.take_along_axis(np.repeat(weight[..., None], 3, axis=2), order, axis=0)
    half = np.cumsum(sorted_weight, axis=0) >= 0.5 * sorted_weight.sum(axis=0)
    middle = np.argmax(half, axis=0)
    median = np.take_along_axis(np.take_along_axis(points, order, axis=0), middle[None], axis=0)[0]
    near = np.linalg.norm(points - median, axis=2) <= limit
    weight = np.where(near, weight, 0.0)
    total = weight.sum(axis=0)
    mean = np.einsum("vn,vnc->nc", weight, points) / np.maximum(total, 1e-30)[:, None]
    return np.where((total > 0)[:, None], mean, np.nan), weight


def _snapped(
    drawable: Drawable,
    caster: RayCaster,
    camera: Camera,
    consensus: Float[ndarray, "n 3"],
    agreed: Bool[ndarray, " n"],
    limit: float,
) -> tuple[Int[ndarray, " n"], Float[ndarray, "n 3"], Float[ndarray, "n 3"]]:
    """Put points onto the surface along the frontal camera's lines of sight; those that end far off are dropped."""
    n = len(consensus)
    face, barycentric, points = np.full(n, -1), np.zeros((n, 3)), np.full((n, 3), np.nan)
    chosen = np.flatnonzero(agreed & np.isfinite(consensus).all(axis=1))
    if len(chosen):
        direction = consensus[chosen] - camera.position
        origins = np.broadcast_to(camera.position, direction.shape)
        hits = caster.cast(origins, direction)
        hit = np.flatnonzero(hits.face >= 0)
        corners = drawable.vertices[drawable.faces[hits.face[hit]]]
        on_surface = np.einsum("nk,nkc->nc", hits.barycentric[hit], corners)
        near = np.linalg.norm(on_surface - consensus[chosen[hit]], axis=1) <= limit
        final, hit = chosen[hit[near]], hit[near]
        face[final], barycentric[final], points[final] = hits.face[hit], hits.barycentric[hit], on_surface[near]
    return face, barycentric, points


def robust_alignment(
    source: Float[ndarray, "n 3"], target: Float[ndarray, "n 3"], weight: Float[ndarray, " n"], *, with_scale: bool
) -> Similarity:
    """Align corresponding points; those that fit badly lose their weight (Geman-McClure)."""
    robust = np.ones(len(source))
    for _ in range(12):
        fit = align_points(source, target, weight * robust, with_scale=with_scale)
        off = np.linalg.norm(fit.apply(source) - target, axis=1)
        robust = 1 / (1 + (off / (2 * max(float(np.median(off)), 1e-12))) ** 2) ** 2
    return fit


def choose_unit(
    scan_units_per_mm: float, declared_mm_per_unit: float | None, *, has_unit: bool = True
) -> tuple[str, float]:
    """Give the unit, and mm in one, in which a face has a human size.

    `scan_units_per_mm` compares the scan with the template's face. Without a fitting unit, and where the scan is known
    to have none, it is `arbitrary`, and the face is given the template's size.
    """
    if not has_unit:
        return "arbitrary", 1 / scan_units_per_mm
    low, high = SIZE_RANGE
    fitting = [unit for unit, mm in MM_PER_UNIT.items() if low <= scan_units_per_mm * mm <= high]
    if declared_mm_per_unit is not None:
        size = scan_units_per_mm * declared_mm_per_unit
        if not low <= size <= high:
            advice = f"Set unit = {fitting[0]}" if fitting else "Leave the unit empty"
            raise ScanUnitError(
                f"the outer corners of the eyes are {size * EYE_DISTANCE_MM:.3g} mm apart in the declared unit; between"
                f" {low * EYE_DISTANCE_MM:.0f} and {high * EYE_DISTANCE_MM:.0f} mm were expected. {advice} for the scan"
                " in the scan table"
            )
        named = [unit for unit, mm in MM_PER_UNIT.items() if np.isclose(mm, declared_mm_per_unit, rtol=1e-9)]
        return (named or ["declared"])[0], declared_mm_per_unit
    return (fitting[0], MM_PER_UNIT[fitting[0]]) if fitting else ("arbitrary", 1 / scan_units_per_mm)


def _check_parts(kept: Int[ndarray, " n_kept"], index: Int[ndarray, " n"], parts: tuple[str, ...]) -> None:
    """Raise LandmarkError if a part of the face is not on the scan."""
    for part in parts:
        members = GROUPS[part]
        wanted = np.isin(members, index)
        share = np.isin(members, kept).sum() / max(1, wanted.sum())
        if wanted.any() and share < _MIN_GROUP_SHARE:
            raise LandmarkError(
                f"only {share:.0%} of the landmarks of the {part} lie on the scan; at least {_MIN_GROUP_SHARE:.0%} were"
                " expected. The scan seems to be cut there, or something covers the face: look at the frontal picture,"
                " and set exclude for the scan in the scan table if it shows no whole face"
            )


def off_limits(index: Int[ndarray, " n"], template_points_mm: dict[int, Float[ndarray, " 3"]]) -> Float[ndarray, " n"]:
    """Give how far each landmark may lie from the rigidly aligned template's."""
    height = np.array([template_points_mm[int(i)][1] for i in index])
    nose = template_points_mm.get(_SUBNASALE, np.full(3, -np.inf))[1]
    return np.where(height < nose, _MAX_OFF_JAW_MM, _MAX_OFF_TEMPLATE_MM)


def _check_forehead(caster: RayCaster, index: Int[ndarray, " n"], points: Float[ndarray, "n 3"]) -> None:
    """Raise LandmarkError if the scan ends below the brows: the detector then puts them on its rim."""
    common = [(k, FACE_SHAPE[int(i)]) for k, i in enumerate(index) if int(i) in FACE_SHAPE]
    rows, shape = np.array([k for k, _ in common]), np.array([place for _, place in common], float)
    face = robust_alignment(shape, points[rows], np.ones(len(rows)), with_scale=True)
    origins = face.apply(_FOREHEAD_MM + np.array([0.0, 0.0, 200.0]))
    hits = caster.cast(origins, np.broadcast_to(-face.rotation[:, 2], origins.shape))
    # Hair or a hat may stand before the forehead; behind it there must not be a hole.
    there = hits.distance / face.scale <= 200.0 + _FOREHEAD_DEPTH_MM
    if there.sum() * 2 < len(there):
        raise LandmarkError(
            "the scan ends below the forehead; a face with its brows and forehead was expected. Look at the frontal"
            " picture: if the scan is cut there, set exclude for it in the scan table"
        )


def _of_scan(
    drawable: Drawable, found: SurfacePoints, kept: Int[ndarray, " n"]
) -> tuple[Int[ndarray, " n"], Float[ndarray, "n 3"]]:
    """Give triangle and barycentric weights in the scan's own numbering."""
    if drawable.source_point is None:
        return found.face[kept], found.barycentric[kept]
    return drawable.source_point[found.face[kept]], np.tile([1.0, 0.0, 0.0], (len(kept), 1))
