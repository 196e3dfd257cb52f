"""Does what the detector calls a face have the shape of one? Where is it, how large, which way does it look?

A detector sees pictures; hollow masks, folds of cloth and printed faces fool it. Rays carry a few of its landmarks to
the surface, where they must lie like those of a person, in any unit and pose.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nphm_core.geometry.rays import RayCaster
from nphm_core.registration.cameras import Camera, framing
from nphm_core.registration.drawable import Drawable
from nphm_core.spaces import Similarity, align_points

FACE_SHAPE: dict[int, tuple[float, float, float]] = {
    33: (-45, 0, 0), 133: (-18, 0, 4), 362: (18, 0, 4), 263: (45, 0, 0), 168: (0, 5, 21), 6: (0, -1, 26),
    4: (0, -29, 47), 2: (0, -43, 33), 98: (-17, -42, 20), 327: (17, -42, 20), 61: (-24, -68, 20), 291: (24, -68, 20),
    0: (0, -58, 33), 17: (0, -75, 32), 200: (0, -90, 29), 105: (-40, 22, 12), 334: (40, 22, 12), 50: (-48, -33, 4),
    280: (48, -33, 4), 151: (0, 34, 19), 205: (-39, -40, 11), 425: (39, -40, 11), 9: (0, 19, 21),
}  # fmt: skip
"""MediaPipe landmarks of an average adult, mm: +x to the subject's left, +y up, +z out; origin between the eyes."""

MAX_RESIDUAL_MM = 9.0
"""Median distance to the average shape; real faces lie within 5 mm, with the mouth wide open within 7."""
MIN_SEEN = 0.75
"""Share of these landmarks that must lie on the scan."""
_KEPT = 0.8
FACE_CENTRE_MM = np.array([0.0, -32.0, 15.0])
FACE_HEIGHT_MM = 185.0
"""From the hairline to the chin."""


@dataclass(frozen=True)
class FaceFit:
    """How well landmarks on a scan form a face."""

    T_scan_face: Similarity
    """From the average face's frame, in mm, to scan space; its scale is the scan's units in a mm."""
    residual_mm: float
    """Median distance of the landmarks to the average face, at the average face's size."""
    hollow_residual_mm: float
    """The same for a face pressed in; smaller than `residual_mm` where the scan shows a mould."""
    seen: float
    """Share of the landmarks whose rays meet the scan."""
    turn_rad: float
    """Angle between the face's direction and the way back to the camera."""
    back_faces: float
    """Share of the triangles met from behind: near one if the scan is turned inside out."""

    @property
    def verdict(self) -> str:
        """Say `face`, `hollow`, or what speaks against a face."""
        if self.seen < MIN_SEEN:
            return "mostly beside the scan"
        if self.hollow_residual_mm < min(self.residual_mm, MAX_RESIDUAL_MM):
            return "hollow"
        if self.residual_mm > MAX_RESIDUAL_MM:
            return "not shaped like a face"
        return "face" if self.turn_rad < np.radians(75) else "seen from behind"


def fit_face(
    drawable: Drawable, caster: RayCaster, camera: Camera, landmarks_px: Float[ndarray, "n_landmarks 2"]
) -> FaceFit:
    """Carry landmarks from a picture to the scan and compare them with an average face.

    A fifth of them may be wrong. Fewer than six on the scan give a residual of infinity.
    """
    index = np.array(list(FACE_SHAPE))
    shape = np.array(list(FACE_SHAPE.values()), float)
    hits = caster.cast(*camera.rays(landmarks_px[index]))
    hit = np.flatnonzero(hits.face >= 0)
    seen = len(hit) / len(index)
    if len(hit) < 6:
        return FaceFit(Similarity.identity(), np.inf, np.inf, seen, 0.0, 0.0)
    corners = drawable.vertices[drawable.faces[hits.face[hit]]]
    points = np.einsum("nk,nkc->nc", hits.barycentric[hit], corners)
    fit, residual = fit_shape(shape[hit], points)
    _, hollow = fit_shape(shape[hit] * [1, 1, -1], points)
    towards = np.einsum("ij,ij->i", np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]),
                        camera.position - points)  # fmt: skip
    cosine = float(np.clip(fit.rotation[:, 2] @ camera.axes[2], -1, 1))
    return FaceFit(fit, residual, hollow, seen, float(np.arccos(cosine)), float((towards < 0).mean()))


def fit_shape(shape: ndarray, points: ndarray) -> tuple[Similarity, float]:
    """Align a shape to points, the worst fifth left out; give the median residual of all in the shape's unit."""
    kept = np.ones(len(shape), bool)
    for _ in range(3):
        fit = align_points(shape[kept], points[kept])
        if fit.scale <= 0:
            return fit, np.inf
        residual = np.linalg.norm(fit.apply(shape) - points, axis=1) / fit.scale
        kept = residual <= np.quantile(residual, _KEPT)
    return fit, float(np.median(residual))


def frontal_camera(fit: FaceFit, *, pixels: int, fov_rad: float, share: float = 0.6) -> Camera:
    """Give the upright camera before a face, which fills a share of the picture's height."""
    face = fit.T_scan_face
    centre = face.apply(FACE_CENTRE_MM[None])[0]
    height = FACE_HEIGHT_MM * face.scale / share
    return framing(centre, face.rotation[:, 2], face.rotation[:, 1], height=height, fov_rad=fov_rad, pixels=pixels)
