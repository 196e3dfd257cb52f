"""Landmarks that a person gives by a file: which of the detector's they are, and whether they belong to the scan.

Names are those of a known set: iBUG's 68 points, the seven of the NoW challenge, or MediaPipe's numbers, which are the
template's own. Left and right are the subject's. Of iBUG's points only those count whose place is sharp; the usual
table of MediaPipe's numbers for the others (jaw line, brows, inner lips) is 3 to 8 mm off.
"""

import difflib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.errors import LandmarkFileError
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import Mesh, face_normals
from nphm_core.io.landmark_file import NamedPoints
from nphm_core.registration.backproject import ScanLandmarks3D, choose_unit, off_limits, robust_alignment
from nphm_core.registration.face_detector import CONTOUR, N_LANDMARKS
from nphm_core.registration.face_geometry import FACE_SHAPE, MAX_RESIDUAL_MM, FaceFit, fit_shape
from nphm_core.spaces import Similarity, align_points

NOW_LANDMARKS = {
    "right_eye_outer": 33,
    "right_eye_inner": 133,
    "left_eye_inner": 362,
    "left_eye_outer": 263,
    "nose_bottom": 2,
    "right_mouth_corner": 61,
    "left_mouth_corner": 291,
}
"""The NoW challenge's seven landmarks, in its order, and MediaPipe's numbers."""
NAMED_LANDMARKS = NOW_LANDMARKS | {"nasion": 168, "nose_tip": 4}
"""All names that a file may use beside numbered ones."""
IBUG_LANDMARKS = {
    27: 168, 28: 197, 30: 4, 32: 97, 33: 2, 34: 326, 36: 33, 37: 160, 38: 158, 39: 133, 40: 153, 41: 144, 42: 362,
    43: 385, 44: 387, 45: 263, 46: 373, 47: 380, 48: 61, 50: 37, 51: 0, 52: 267, 54: 291, 57: 17,
}  # fmt: skip
"""iBUG's numbers, from 0, of points that lie within 2.5 mm of one of MediaPipe's on the head that both were compared
on."""
MIN_GIVEN = 4
"""Three points give a similarity; the fourth shows a wrong one."""
GIVEN_WEIGHT = 10.0
"""Of a given landmark, where a detected one has at most 1: it is three times as near, and errs by itself."""
_MIN_SPREAD = 0.15
"""Width of the points across their longest direction, relative to it, below which they lie in a line."""
_MAX_RMS_MM = 20.0
"""A mouth wide open is within it, a wrong name is not."""
_N_IBUG = 68
_NUMBERED = re.compile(r"(ibug|mediapipe)_?(\d+)")
_MAX_SHOWN = 5


@dataclass(frozen=True)
class GivenLandmarks:
    """A file's landmarks on the scan."""

    index: Int[ndarray, " n"]
    """MediaPipe's numbers, rising."""
    points: Float[ndarray, "n 3"]
    """On the surface, scan space."""
    n_unused: int = 0
    """Points of the file that have no sharp place among MediaPipe's."""
    farthest_mm: float = 0.0
    """Largest distance from the surface to a point as given, at the average face's size."""

    def to_json(self) -> dict[str, Any]:
        """Give plain facts for given_landmarks.json."""
        return {"index": self.index, "points": self.points, **self.quality}

    @property
    def quality(self) -> dict[str, Any]:
        """Give the numbers for the record."""
        return {"n_used": len(self.index), "n_unused": self.n_unused, "farthest_mm": round(self.farthest_mm, 3)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "GivenLandmarks":
        """Read what `to_json` gave."""
        return cls(
            np.array(data["index"], int),
            np.array(data["points"], float).reshape(-1, 3),
            int(data["n_unused"]),
            float(data["farthest_mm"]),
        )


def given_landmarks(named: NamedPoints, mesh: Mesh, *, max_distance_mm: float) -> GivenLandmarks:
    """Check a file's points against the scan and put them onto its surface; `mesh` is in scan space.

    LandmarkFileError for unknown names, positions that are no numbers, points off the surface, and sets too small or
    not shaped like a face.
    """
    numbers = known_numbers(named.names)
    bad = [name for name, point in zip(named.names, named.points, strict=True) if not np.isfinite(point).all()]
    if bad:
        raise _refusal(f"the positions of {_listed(bad)} are not finite numbers", "correct them or take them out")
    used = [k for k, number in enumerate(numbers) if number is not None]
    index = np.array([numbers[k] for k in used], int)
    if len(np.unique(index)) < len(index):
        twice = [named.names[k] for k in used if (index == numbers[k]).sum() > 1]
        raise _refusal(f"{_listed(twice)} name the same landmark", "keep one of them")
    order = np.argsort(index)
    index, points = index[order], named.points[used][order]
    names = [named.names[used[k]] for k in order]
    face = _face_fit(index, points, mesh)
    closest = ClosestPoints(mesh.vertices, mesh.faces).query(points)
    off_mm = closest.distance / face.scale
    if (off_mm > max_distance_mm).any():
        far = [f"{names[k]} ({off_mm[k]:.1f} mm)" for k in np.flatnonzero(off_mm > max_distance_mm)]
        raise _refusal(
            f"{_listed(far)} lie off the scan's surface; at most {max_distance_mm:g} mm were expected",
            "give them in the scan's own unit and frame, or raise ingest.max_landmark_distance_mm",
        )
    return GivenLandmarks(index, closest.point, len(numbers) - len(used), float(off_mm.max()))


def known_numbers(names: tuple[str, ...]) -> list[int | None]:
    """Give MediaPipe's number for each name; None for points of a known set that have no sharp place.

    LandmarkFileError names what is unknown. Numbers alone are understood for whole sets only.
    """
    if all(name.isascii() and name.isdigit() for name in names):
        return _from_numbers([int(name) for name in names])
    found, unknown = list[int | None](), []
    for name in names:
        plain = re.sub(r"[\s.-]+", "_", name.strip().lower())
        match = _NUMBERED.fullmatch(plain)
        number = int(match[2]) if match and len(match[2]) < 4 else None
        if plain in NAMED_LANDMARKS:
            found.append(NAMED_LANDMARKS[plain])
        elif match and match[1] == "ibug" and number is not None and number < _N_IBUG:
            found.append(IBUG_LANDMARKS.get(number))
        elif match and match[1] == "mediapipe" and number is not None and number < N_LANDMARKS:
            found.append(None if number in CONTOUR else number)
        else:
            unknown.append(name)
    if unknown:
        near = difflib.get_close_matches(unknown[0].lower(), NAMED_LANDMARKS, n=1)
        hint = (
            f"did you mean {near[0]}?" if near else f"known are {', '.join(NAMED_LANDMARKS)}, ibug_0, mediapipe_0, ..."
        )
        raise _refusal(f"the landmark names {_listed(unknown)} are unknown", hint)
    return found


def _from_numbers(numbers: list[int]) -> list[int | None]:
    """Give MediaPipe's numbers for a whole set: 68 or 51 points of iBUG, 7 of NoW, all of MediaPipe's."""
    first, n = min(numbers), len(numbers)
    if sorted(numbers) == list(range(first, first + n)) and first in (0, 1):
        if n in (_N_IBUG, _N_IBUG - 17):
            return [IBUG_LANDMARKS.get(number - first + _N_IBUG - n) for number in numbers]
        if n == len(NOW_LANDMARKS):
            return [list(NOW_LANDMARKS.values())[number - first] for number in numbers]
        if first == 0 and n in (N_LANDMARKS, N_LANDMARKS + 10):
            return [None if number in CONTOUR or number >= N_LANDMARKS else number for number in numbers]
    raise _refusal(
        f"{n} numbers do not say which set of landmarks they are from; 68 or 51 (iBUG), 7 (NoW) or {N_LANDMARKS}"
        " (MediaPipe) in a row, from 0 or 1, were expected",
        "put the set before the numbers, as in ibug_36 or mediapipe_33",
    )


def _face_fit(index: Int[ndarray, " n"], points: Float[ndarray, "n 3"], mesh: Mesh) -> Similarity:
    """Give the map from the average face, in mm, to scan space; LandmarkFileError where the points show no face."""
    known = np.array([int(i) in FACE_SHAPE for i in index], bool)
    wanted = f"{MIN_GIVEN} of MediaPipe's {', '.join(str(i) for i in sorted(FACE_SHAPE))} or their names in other sets"
    if known.sum() < MIN_GIVEN:
        raise _refusal(
            f"{int(known.sum())} landmarks are too few to place a head; at least {wanted} were expected", "add some"
        )
    width = np.linalg.svd(points[known] - points[known].mean(axis=0), compute_uv=False)
    if width[1] <= _MIN_SPREAD * width[0]:
        raise _refusal("the landmarks lie in one line or in one point, which leaves the head's pose open", "add others")
    fit = face_of_landmarks(index, points, mesh)
    shape = _shape(index[known])
    rms, mirrored = _rms_mm(shape, points[known]), _rms_mm(shape * [1, 1, -1], points[known])
    # A face and its mirror image differ in depth only, which few points show: the surface has its say as well.
    if mirrored < (1.3 if fit.back_faces > 0.5 else 0.7) * rms:
        raise _refusal(
            "the landmarks are those of a face's mirror image", "swap left and right: both are the subject's"
        )
    if fit.residual_mm > MAX_RESIDUAL_MM or rms > _MAX_RMS_MM:
        raise _refusal(
            f"the landmarks lie {rms:.0f} mm (root mean square) from those of an average face; at most"
            f" {_MAX_RMS_MM:g} mm were expected",
            "check which name belongs to which point",
        )
    return fit.T_scan_face


def _shape(index: Int[ndarray, " n"]) -> Float[ndarray, "n 3"]:
    return np.array([FACE_SHAPE[int(i)] for i in index], float)


def _rms_mm(shape: Float[ndarray, "n 3"], points: Float[ndarray, "n 3"]) -> float:
    """Give how far points lie from the aligned shape, in its mm."""
    fit = align_points(shape, points)
    off = np.linalg.norm(fit.apply(shape) - points, axis=1) / max(fit.scale, 1e-300)
    return float(np.sqrt((off**2).mean()))


def face_of_landmarks(index: Int[ndarray, " n"], points: Float[ndarray, "n 3"], mesh: Mesh) -> FaceFit:
    """Compare given landmarks, in scan space, with an average face; a fifth of them may be wrong."""
    known = np.array([int(i) in FACE_SHAPE for i in index], bool)
    shape = _shape(index[known])
    fit, residual = fit_shape(shape, points[known])
    _, hollow = fit_shape(shape * [1, 1, -1], points[known])
    closest = ClosestPoints(mesh.vertices, mesh.faces).query(points[known])
    if mesh.n_faces:
        normals = face_normals(mesh.vertices, mesh.faces)[0][closest.face]
    else:
        assert mesh.normals is not None, "ingest gives every cloud normals"
        normals = mesh.normals[closest.face]
    back_faces = float((normals @ fit.rotation[:, 2] < 0).mean())
    return FaceFit(fit, residual, hollow, 1.0, 0.0, back_faces)


def with_given_landmarks(
    given: GivenLandmarks,
    detected: ScanLandmarks3D | None,
    mesh: Mesh,
    template_points_mm: dict[int, Float[ndarray, " 3"]],
    template_weight: dict[int, float],
    *,
    declared_mm_per_unit: float | None = None,
    has_unit: bool = True,
) -> ScanLandmarks3D:
    """Give the landmarks of both, the given ones in place of detected ones of the same number.

    `mesh` is in scan space; template landmarks as for `backproject`. Detected landmarks that contradict the given ones
    are dropped. LandmarkFileError where the template knows too few of those given, ScanUnitError as `backproject`.
    """
    index, points, weight, spread = _joined(given, detected, template_points_mm, template_weight)
    target, is_given = _at(index, template_points_mm), weight == GIVEN_WEIGHT
    trust = weight * np.array([template_weight[int(i)] for i in index])
    scan_units_per_mm = robust_alignment(target, points, trust, with_scale=True).scale
    unit, mm_per_unit = choose_unit(scan_units_per_mm, declared_mm_per_unit, has_unit=has_unit)
    pose = robust_alignment(points * mm_per_unit, target, trust, with_scale=False)
    residual_mm = float(np.median(np.linalg.norm(pose.apply(points * mm_per_unit) - target, axis=1)))
    size = 1.0 if unit == "arbitrary" else scan_units_per_mm * mm_per_unit
    closest = ClosestPoints(mesh.vertices, mesh.faces).query(points)
    return ScanLandmarks3D(
        unit, mm_per_unit, index, points * mm_per_unit, closest.face, closest.barycentric, spread * mm_per_unit,
        weight, pose, size, residual_mm, is_given,
    )  # fmt: skip


def _joined(
    given: GivenLandmarks,
    detected: ScanLandmarks3D | None,
    template_points_mm: dict[int, Float[ndarray, " 3"]],
    template_weight: dict[int, float],
) -> tuple[Int[ndarray, " n"], Float[ndarray, "n 3"], Float[ndarray, " n"], Float[ndarray, " n"]]:
    """Give numbers, points and spreads (both in scan space) and weights of the landmarks that both together leave."""
    known = np.array([template_weight.get(int(i), 0.0) > 0 for i in given.index], bool)
    if known.sum() < MIN_GIVEN:
        raise _refusal(f"the template knows {int(known.sum())} of the landmarks; {MIN_GIVEN} were expected", "add some")
    index, points = given.index[known], given.points[known]
    weight, spread = np.full(len(index), GIVEN_WEIGHT), np.zeros(len(index))
    if detected is not None:
        rough = robust_alignment(_at(index, template_points_mm), points, weight, with_scale=True)
        others, scale = detected.points_mm / detected.mm_per_scan_unit, detected.mm_per_scan_unit
        off = np.linalg.norm(rough.apply(_at(detected.index, template_points_mm)) - others, axis=1) / rough.scale
        keep = ~np.isin(detected.index, index) & (off <= off_limits(detected.index, template_points_mm))
        index, points = np.append(index, detected.index[keep]), np.concatenate([points, others[keep]])
        weight, spread = np.append(weight, detected.weight[keep]), np.append(spread, detected.spread_mm[keep] / scale)
    order = np.argsort(index)
    return index[order], points[order], weight[order], spread[order]


def _at(index: Int[ndarray, " n"], template_points_mm: dict[int, Float[ndarray, " 3"]]) -> Float[ndarray, "n 3"]:
    return np.array([template_points_mm[int(i)] for i in index]).reshape(-1, 3)


def _listed(names: list[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:_MAX_SHOWN])
    return f"{shown} and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else shown


def _refusal(what: str, advice: str) -> LandmarkFileError:
    return LandmarkFileError(f"{what}. In the landmark file, {advice}; or clear the column landmarks for the scan")
