"""Learn where a detector's landmarks lie on a template.

The template is drawn as scans are, with several identities, expressions and views; the detector looks; rays carry what
it sees to the template's triangles. So the embedding has the detector's own habits, which the usual table from
MediaPipe's numbers to 68 landmarks has not (2.7 mm off). Hits on different heads are compared on the mean head. The
mean head is taken to be mirror-symmetric at x = 0. Lengths here are mm unless they come from the model (metres).
"""

import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.errors import FaceNotFoundError, TemplateError
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.rays import RayCaster
from nphm_core.registration.backproject import GROUPS
from nphm_core.registration.cameras import Camera
from nphm_core.registration.drawable import Drawable, drawable_of
from nphm_core.registration.face_detector import CONTOUR, FaceDetector
from nphm_core.registration.face_geometry import FACE_CENTRE_MM, frontal_camera
from nphm_core.registration.face_search import find_faces
from nphm_core.registration.render_backends import see
from nphm_core.template.model import HeadModel
from nphm_core.template.template import LandmarkEmbedding

log = logging.getLogger(__name__)

MAX_SPREAD_MM = 4.0
"""Landmarks that wander more have no place on the surface and are left out."""
_HALF_WEIGHT_MM = 2.0
_VIEWS_DEGREES = ((0.0, 0.0), (15.0, 0.0), (-15.0, 0.0), (0.0, 10.0), (0.0, -10.0))
_PIXELS = 384
_FOV_RAD = np.radians(20.0)
_MIN_SHARE = 0.5
"""A landmark must be hit in this share of the pictures."""
_MIN_COSINE = 0.2
_MM_PER_METRE = 1000.0


@dataclass(frozen=True)
class _Looks:
    """What all pictures together say; nan where a ray missed or grazed."""

    on_mean: Float[ndarray, "n_pictures 468 3"]
    """Hits, carried to the mean head; mm."""
    frontal_px: Float[ndarray, "n_heads 468 2"]
    """Landmarks in the frontal pictures, from the picture's middle."""
    hit_faces: Bool[ndarray, " n_faces"]
    """Triangles of the template that were seen."""


def learn_landmark_embedding(
    model: HeadModel, *, rng: np.random.Generator, n_identities: int = 16, min_confidence: float = 0.5
) -> LandmarkEmbedding:
    """Learn the embedding of a head model; the face oval and landmarks that wander have weight zero.

    Draws the mean head and `n_identities` random ones, each with three expressions, from five views. Raises
    TemplateError if the detector sees no face in most of the pictures.
    """
    mean_mm = model.v_template * _MM_PER_METRE
    cameras = _cameras(mean_mm, model.faces, min_confidence)
    looks = _look_at_heads(model, cameras, rng, n_identities, min_confidence)
    share = np.isfinite(looks.on_mean[:, :, 0]).mean(axis=0)
    points = _nan_median(looks.on_mean)
    points = _symmetrised(points, mirrored_landmarks(looks.frontal_px))
    index = np.flatnonzero((share >= _MIN_SHARE) & np.isfinite(points).all(axis=1))
    visible = np.flatnonzero(looks.hit_faces)
    closest = ClosestPoints(mean_mm, model.faces[visible]).query(points[index])
    spread = np.nanmedian(np.linalg.norm(looks.on_mean[:, index] - closest.point, axis=2), axis=0)
    steady = (spread <= MAX_SPREAD_MM) & ~np.isin(index, CONTOUR)
    # On colour the detector follows the painted brow, on grey the ridge, which lies some millimetres lower.
    trust = np.where(np.isin(index, GROUPS["brows"]), 0.5, 1.0) * steady
    weight = trust / (1 + (spread / _HALF_WEIGHT_MM) ** 2)
    return LandmarkEmbedding(index, visible[closest.face], closest.barycentric, spread, weight)


def _cameras(mean_mm: ndarray, faces: ndarray, min_confidence: float) -> tuple[Camera, ...]:
    drawable = drawable_of(Mesh(mean_mm, faces))
    caster = RayCaster(mean_mm, faces)
    try:
        fit = find_faces(drawable, caster, min_confidence=min_confidence, several=False).fit
    except FaceNotFoundError as error:
        raise TemplateError(f"the template shows no face: {error}") from None
    frontal = frontal_camera(fit, pixels=_PIXELS, fov_rad=_FOV_RAD)
    centre = fit.T_scan_face.apply(FACE_CENTRE_MM[None])[0]
    return tuple(frontal.turned(centre, *np.radians(view)) for view in _VIEWS_DEGREES)


def _look_at_heads(
    model: HeadModel, cameras: tuple[Camera, ...], rng: np.random.Generator, n_identities: int, min_confidence: float
) -> _Looks:
    mean_mm = model.v_template * _MM_PER_METRE
    on_mean, frontal, hit_faces = [], [], np.zeros(len(model.faces), bool)
    heads = _random_heads(model, rng, n_identities)
    with FaceDetector(refine=False, min_confidence=min_confidence) as detector:
        for vertices in heads:
            drawable = drawable_of(Mesh(vertices * _MM_PER_METRE, model.faces))
            caster = RayCaster(drawable.vertices, drawable.faces)
            for k, camera in enumerate(cameras):
                found = detector.detect(see(drawable, caster, camera).lit(flat=False))
                if not found:
                    continue
                face, points = _carried(drawable, caster, camera, found[0], mean_mm)
                hit_faces[face[face >= 0]] = True
                on_mean.append(points)
                if k == 0:
                    frontal.append(found[0] - _PIXELS / 2)
    if len(on_mean) < 0.5 * len(heads) * len(cameras) or not frontal:
        raise TemplateError(
            f"the detector sees a face in {len(on_mean)} of {len(heads) * len(cameras)} pictures of the template; most"
            " were expected. Is the template a head in metres, +y up, +z out of the face?"
        )
    log.info("learnt from %d pictures", len(on_mean))
    return _Looks(np.stack(on_mean), np.stack(frontal), hit_faces)


def _carried(
    drawable: Drawable, caster: RayCaster, camera: Camera, landmarks_px: Float[ndarray, "468 2"], mean_mm: ndarray
) -> tuple[Int[ndarray, " 468"], Float[ndarray, "468 3"]]:
    """Give the triangle that each landmark lies on, and the same place on the mean head."""
    origins, directions = camera.rays(landmarks_px)
    hits = caster.cast(origins, directions)
    corner = drawable.faces[np.maximum(hits.face, 0)]
    normals = np.einsum("nk,nkc->nc", hits.barycentric, drawable.normals[corner])
    cosine = np.abs(np.einsum("ij,ij->i", normals, directions))
    good = (hits.face >= 0) & (cosine > _MIN_COSINE)
    points = np.einsum("nk,nkc->nc", hits.barycentric, mean_mm[corner])
    return np.where(good, hits.face, -1), np.where(good[:, None], points, np.nan)


def _random_heads(model: HeadModel, rng: np.random.Generator, n_identities: int) -> list[Float[ndarray, "n 3"]]:
    """Give the mean and random identities, each at rest, with a mild expression and with a slightly open jaw."""
    out = []
    for k in range(n_identities + 1):
        identity = np.clip(rng.standard_normal(min(model.n_identity, 50)), -2, 2) * (0.0 if k == 0 else 0.8)
        jaw = {"jaw": np.array([rng.uniform(0.06, 0.15), 0.0, 0.0])} if model.joint("jaw") is not None else {}
        out.append(model.pose(identity))
        out.append(model.pose(identity, _mild_expression(model, rng)))
        out.append(model.pose(identity, None if jaw else _mild_expression(model, rng), jaw))
    return out


def _mild_expression(model: HeadModel, rng: np.random.Generator) -> Float[ndarray, " n_expression"]:
    """Give weak expressions: a third of four blend shapes, or half a standard deviation of ten components."""
    out = np.zeros(model.n_expression)
    if model.expression_names and model.n_expression:
        chosen = rng.choice(model.n_expression, min(4, model.n_expression), replace=False)
        out[chosen] = rng.uniform(0.1, 0.35, len(chosen))
    else:
        out[:10] = 0.5 * rng.standard_normal(min(10, model.n_expression))
    return out


def mirrored_landmarks(frontal_px: Float[ndarray, "n_heads n 2"]) -> Int[ndarray, " n"]:
    """Find each landmark's partner on the other side, from frontal pictures; -1 where none is certain.

    Several heads together tell apart what coincides on one, such as the lips of a closed mouth.
    """
    n_heads, n, _ = frontal_px.shape
    centred = frontal_px - frontal_px.mean(axis=1, keepdims=True)
    place = centred.transpose(1, 0, 2).reshape(n, -1)
    mirror = (centred * [-1, 1]).transpose(1, 0, 2).reshape(n, -1)
    squared = (mirror**2).sum(1)[:, None] + (place**2).sum(1)[None] - 2 * mirror @ place.T
    nearest = squared.argmin(axis=1)
    mutual = nearest[nearest] == np.arange(n)
    near = np.sqrt(np.maximum(squared[np.arange(n), nearest], 0) / n_heads) < 0.03 * _PIXELS
    return np.where(mutual & near, nearest, -1)


def _symmetrised(points: Float[ndarray, "n 3"], partner: Int[ndarray, " n"]) -> Float[ndarray, "n 3"]:
    """Average each landmark with its partner's mirror image; those without a partner stay."""
    other = points[np.maximum(partner, 0)] * [-1, 1, 1]
    use = (partner >= 0) & np.isfinite(other).all(axis=1)
    return np.where(use[:, None], 0.5 * (points + other), points)


def _nan_median(points: Float[ndarray, "n_pictures n 3"]) -> Float[ndarray, "n 3"]:
    """Give the median place of each landmark; nan where there is none at all."""
    out = np.full(points.shape[1:], np.nan)
    seen = np.isfinite(points[:, :, 0]).any(axis=0)
    out[seen] = np.nanmedian(points[:, seen], axis=0)
    return out
