"""Fit a linear head model (FLAME or another in its layout) to a scan: similarity, identity, expression and joints.

The energy is a robust sum of landmark distances, of vertex-to-scan distances (point-to-plane, with a little
point-to-point against sliding) and of the squared coefficients, which the model's own statistics make a prior. It is
minimised by Gauss-Newton steps on dense normal equations (about 160 unknowns), correspondences found anew before
each; early steps look at a random part of the vertices. The model is in metres, everything else in mm.

Papers: Li et al., "Learning a model of facial shape and expression from 4D scans", TOG 2017 (the model and the terms);
Geman and McClure, 1987 (the kernel).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.config import FlameFitConfig
from nphm_core.errors import RegistrationError
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import vertex_normals
from nphm_core.registration.flame_problem import FitProblem, FitState, FitStep, LandmarkPairs, vertex_areas
from nphm_core.registration.scan_surface import ScanSurface
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, Similarity, align_points
from nphm_core.template.model import Coefficients, HeadModel
from nphm_core.template.template import Template

_MM_PER_METRE = 1000.0
# How far the vertices of a region are trusted to follow a scan; where regions overlap the smallest weight wins.
_REGION_WEIGHT = {"scalp": 0.3, "neck": 0.3, "ears": 0.4, "eyeballs": 0.0, "mouth_interior": 0.0, "boundary": 0.0}
_MIN_LANDMARKS = 12
_MIN_GIVEN_LANDMARKS = 4
_N_EARLY, _N_LATE = 1200, 3500
_LATE_STEPS = 4
_FINAL_GATE_MM = 3.0


@dataclass(frozen=True)
class ScanLandmarks:
    """Landmarks of a scan in metric space."""

    index: Int[ndarray, " n"]
    """MediaPipe's numbering."""
    points_mm: Float[ndarray, "n 3"]
    weight: Float[ndarray, " n"]
    """Relative: only the proportions count."""
    are_given: bool = False
    """A person gave some of them: a few are enough then."""


@dataclass(frozen=True)
class FlameFit:
    """The fitted head model."""

    coefficients: Coefficients
    T_metric_model: Similarity
    """Model space (metres) to metric space (mm)."""
    T_canonical_metric: Similarity
    """Metric space to canonical space: the skull's pose removed."""
    vertices_mm: Float[ndarray, "n_vertices 3"]
    """Posed template in metric space."""
    data_weight: Float[ndarray, " n_vertices"]
    """How far each vertex may follow the scan: its region's trust, times the evidence that the scan is bare there."""
    bald: bool
    """The scan's colour shows skin where hair may grow."""
    residual_mm: float
    """Median distance of the face's vertices to the scan, where they correspond."""
    landmark_mm: float
    """Median distance between the landmarks of scan and fit."""
    matched_share: float
    """Share of the face's vertices that correspond to the scan."""
    energies: tuple[float, ...]
    """Energy after each step; each step has its own kernel."""


def fit_flame(
    template: Template,
    scan: ScanSurface,
    landmarks: ScanLandmarks,
    settings: FlameFitConfig,
    *,
    fit_scale: bool,
    identity: Float[ndarray, " n_identity"] | None = None,
    rng: np.random.Generator,
) -> FlameFit:
    """Fit the template's head model to a scan.

    `identity` keeps those coefficients as they are (another scan of the same subject gave them); `fit_scale` is for
    scans without a unit. Raises RegistrationError where scan and template share fewer than 12 landmarks (4 if a person
    gave some), or where the fit ends far from the scan.
    """
    model = template.model
    problem = FitProblem(
        model,
        scan,
        ClosestPoints(scan.vertices, scan.faces),
        _landmark_pairs(template, landmarks),
        region_weights(template) * _relative_area(model),
        template.regions["hair_prone"],
        priors=(settings.identity_prior, settings.expression_prior),
        n_identity=min(settings.n_identity, model.n_identity),
        n_expression=min(settings.n_expression, model.n_expression),
        identity=identity,
        fit_scale=fit_scale,
    )
    state, energies = _solve(problem, _start(problem, identity), template.regions, settings, rng)
    return _result(problem, template, state, tuple(energies), settings)


def region_weights(template: Template) -> Float[ndarray, " n_vertices"]:
    """Give how far each vertex is trusted to follow a scan, before any scan is looked at."""
    out = np.ones(template.model.n_vertices)
    for name, weight in _REGION_WEIGHT.items():
        if name in template.regions:
            out[template.regions[name]] = np.minimum(out[template.regions[name]], weight)
    return out


def schedule(settings: FlameFitConfig) -> list[FitStep]:
    """Give the steps: landmarks only, then the scan too, with a kernel and a gate that narrow."""
    n_landmark = max(3, settings.n_iterations // 5)
    n_data = max(1, settings.n_iterations - n_landmark)
    steps = [FitStep(6.0, 0.0, 0.0, 4.0 if i < 2 else 2.0, 1.0) for i in range(n_landmark)]
    for i in range(n_data):
        t = min(1.0, i / max(1, n_data - 3))
        steps.append(
            FitStep(
                kernel_mm=settings.robust_mm * 4 ** (1 - t),
                gate_mm=settings.max_distance_mm * 3 ** (1 - t),
                data=1.0,
                stiffness=4 ** (1 - t),
                landmark=settings.landmark_weight * 0.1**t,
            )
        )
    return steps


def _solve(
    problem: FitProblem,
    state: FitState,
    regions: dict[str, ndarray],
    settings: FlameFitConfig,
    rng: np.random.Generator,
) -> tuple[FitState, list[float]]:
    steps = schedule(settings)
    early, late = problem.choose_vertices(_N_EARLY, rng), problem.choose_vertices(_N_LATE, rng)
    energies = []
    for i, step in enumerate(steps):
        if i == len(steps) // 2:
            problem.look_for_hair(state, regions["scalp"], regions["face"])
        sample = late if i >= len(steps) - _LATE_STEPS else early
        pairs = problem.correspond(state, sample, step) if step.data else None
        hessian, gradient = problem.normal_equations(state, sample, pairs, step)
        damping = 1e-6 * np.trace(hessian) / len(hessian)
        delta = np.linalg.solve(hessian + damping * np.eye(len(hessian)), -gradient)
        before = problem.energy(state, sample, pairs, step)
        for _ in range(5):
            trial = problem.moved(state, sample, delta)
            energy = problem.energy(trial, sample, pairs, step)
            if energy <= before:
                state, before = trial, energy
                break
            delta = delta / 2
        energies.append(before)
    return state, energies


def _landmark_pairs(template: Template, landmarks: ScanLandmarks) -> LandmarkPairs:
    embedding = template.landmarks
    n = 1 + int(max(landmarks.index.max(initial=0), embedding.index.max(initial=0)))
    weight, position = np.zeros(n), np.full((n, 3), np.nan)
    weight[landmarks.index] = landmarks.weight
    position[landmarks.index] = landmarks.points_mm
    shared = weight[embedding.index] * embedding.weight
    use = (shared > 0) & np.isfinite(position[embedding.index]).all(axis=1)
    needed = _MIN_GIVEN_LANDMARKS if landmarks.are_given else _MIN_LANDMARKS
    if use.sum() < needed:
        raise RegistrationError(
            f"scan and template share {int(use.sum())} landmarks; at least {needed} are needed. Look at the "
            "landmarks in quality.png: a scan without a clearly visible face cannot be registered."
        )
    corners = template.model.faces[embedding.face[use]]
    return LandmarkPairs(corners, embedding.barycentric[use], position[embedding.index[use]], shared[use])


def _relative_area(model: HeadModel) -> Float[ndarray, " n_vertices"]:
    """Give vertices weight by area, so that a finely meshed mouth does not outvote the cheeks."""
    area = vertex_areas(model.v_template, model.faces)
    return np.clip(area / np.median(area), 0.2, 3.0)


def _start(problem: FitProblem, identity: ndarray | None) -> FitState:
    model, marks = problem.model, problem.landmarks
    coefficients = model.coefficients(identity=identity)
    rest = problem.landmark_positions(model.posed(coefficients) * _MM_PER_METRE, marks.corners)
    pose = align_points(rest, marks.points_mm, marks.weight, with_scale=problem.fit_scale)
    problem.start_scale = pose.scale * _MM_PER_METRE
    return FitState(coefficients, Similarity(pose.scale * _MM_PER_METRE, pose.rotation, pose.translation))


def _result(
    problem: FitProblem, template: Template, state: FitState, energies: tuple[float, ...], settings: FlameFitConfig
) -> FlameFit:
    model = problem.model
    vertices = state.T_metric_model.apply(model.posed(state.coefficients))
    normals = vertex_normals(vertices, model.faces)
    found = problem.pair_vertices(vertices, normals, np.arange(len(vertices)), settings.max_distance_mm)
    face = template.regions["face"] & (region_weights(template) > 0)
    matched = (found.weight > 0) & face
    marks = problem.landmarks
    offset = problem.landmark_positions(vertices, marks.corners) - marks.points_mm
    residual = float(np.median(found.distance_mm[matched])) if matched.any() else np.inf
    share = float(matched.sum() / face.sum())
    if residual > _FINAL_GATE_MM or share < settings.min_matched_share:
        raise RegistrationError(
            f"the fitted head lies {residual:.1f} mm (median) from the scan and {share:.0%} of the face corresponds; "
            f"expected at most {_FINAL_GATE_MM:g} mm and at least {settings.min_matched_share:.0%}. The landmarks may "
            "be wrong, or the scan shows no head: look at frontal.png, give landmarks by file, or exclude the scan."
        )
    bare = np.ones(len(vertices)) if problem.bald else np.where(problem.hair_prone, problem.bare_at(vertices), 1.0)
    return FlameFit(
        coefficients=state.coefficients,
        T_metric_model=state.T_metric_model,
        T_canonical_metric=_canonical(model, state),
        vertices_mm=vertices,
        data_weight=(region_weights(template) > 0) * bare,
        bald=problem.bald,
        residual_mm=residual,
        landmark_mm=float(np.median(np.linalg.norm(offset, axis=1))),
        matched_share=share,
        energies=energies,
    )


def _canonical(model: HeadModel, state: FitState) -> Similarity:
    """Give the map to canonical space: the frame of the bone that carries jaw and eyes, at rest."""
    carried = [model.joint(name) for name in ("left_eye", "right_eye", "jaw")]
    bone = next((model.parents[j] for j in carried if j is not None), 0)
    skeleton = model.skeleton(state.coefficients)
    world, rest, position = skeleton.world[bone], skeleton.rest[bone], skeleton.position[bone]
    T_model_skull = Similarity(1.0, world, position - world @ rest)
    T_canonical_model = Similarity(_MM_PER_METRE / MM_PER_CANONICAL_UNIT, np.eye(3), np.zeros(3))
    return T_canonical_model @ T_model_skull.inverse() @ state.T_metric_model.inverse()
