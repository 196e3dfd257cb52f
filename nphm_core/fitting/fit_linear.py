"""Fit of the linear head model to observed points: codes and pose, any number of scans of one subject together.

Levenberg-Marquardt on the points' distances to the posed surface (point to plane, found anew in every iteration), with
the Gaussian priors that the components come with, and a kernel that narrows. The start is a search over poses with
the mean head, whose best candidates are fitted coarsely before one is chosen; so the user's start may be far off, or
missing. Points may be in any unit and pose.
"""

import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.config import FitConfig
from nphm_core.errors import FittingError
from nphm_core.fitting.linear_energy import Cloud, Codes, Kernel, LinearEnergy
from nphm_core.fitting.linear_start import StartSearch
from nphm_core.fitting.linear_surface import LinearSurface
from nphm_core.models.linear_head import LinearHead
from nphm_core.spaces import Similarity

log = logging.getLogger(__name__)

_MIN_POINTS = 50
_N_CANDIDATES = 4
_N_COARSE_POINTS = 500
_COARSE_STEPS, _STEPS = 10, 40
_KERNEL_START_MM = 20.0
_ANNEALED_SHARE = 0.5
_MAX_TRIALS = 5
_CONVERGED = 1e-4
_COMPARED_STD_MM = 1.0


@dataclass(frozen=True)
class LinearObservation:
    """The points of one scan."""

    points: Float[ndarray, "n 3"]
    """In any unit and pose."""
    normals: Float[ndarray, "n 3"] | None = None
    """Outward unit normals; None if there are none."""
    anchors: Float[ndarray, "n_anchors 3"] | None = None
    """The model's anchors on the scan, NaN rows where it does not show them."""
    T_canonical_observed: Similarity | None = None
    """A start for the pose, good or not; None searches everywhere."""
    log_scale_std: float = np.inf
    """How far the start's scale may be off, as a standard deviation of its logarithm: 0.01 where the unit is known."""


@dataclass(frozen=True)
class LinearFit:
    """A linear head fitted to one subject's scans."""

    identity_code: Float[ndarray, " n_identity"]
    expression_codes: Float[ndarray, "n_scans n_expression"]
    T_canonical_observed: tuple[Similarity, ...]
    spread_mm: tuple[float, ...]
    """Robust standard deviation of the points around the posed surface, of each scan, in canonical mm."""
    energies: tuple[float, ...]
    """After each iteration; each has its own kernel."""


def fit_linear_heads(
    model: LinearHead,
    problems: list[tuple[LinearObservation, ...]],
    settings: FitConfig,
    *,
    rng: np.random.Generator,
) -> list[LinearFit]:
    """Fit the model to subjects, each with one or more scans that share the identity.

    Raises FittingError where a scan has hardly any points.
    """
    surface = LinearSurface(model)
    search = StartSearch.of_surface(surface, rng=rng)
    return [_fit_subject(surface, search, problem, settings, rng) for problem in problems]


def _fit_subject(
    surface: LinearSurface,
    search: StartSearch,
    observations: tuple[LinearObservation, ...],
    settings: FitConfig,
    rng: np.random.Generator,
) -> LinearFit:
    frames, clouds, poses = [], [], []
    for observation in observations:
        frame, cloud, pose = _prepare(surface, search, observation, settings, rng)
        frames.append(frame)
        clouds.append(cloud)
        poses.append(pose)
    energy = LinearEnergy(surface, tuple(clouds))
    codes, energies, spread = _minimise(energy, energy.start(tuple(poses)), _STEPS, settings)
    return LinearFit(
        codes.identity,
        np.stack(codes.expressions),
        tuple(pose.inverse() @ frame for pose, frame in zip(codes.poses, frames, strict=True)),
        # The cloud has about canonical size; its pose says how far from it.
        tuple(s / pose.scale for s, pose in zip(spread, codes.poses, strict=True)),
        tuple(energies),
    )


def _prepare(
    surface: LinearSurface,
    search: StartSearch,
    observation: LinearObservation,
    settings: FitConfig,
    rng: np.random.Generator,
) -> tuple[Similarity, Cloud, Similarity]:
    """Give the map from the observed to the cloud's frame, the cloud, and the pose to start from."""
    points, normals, anchors = _checked(observation)
    ids = np.sort(rng.permutation(len(points))[: settings.n_points])
    start = None if observation.T_canonical_observed is None else observation.T_canonical_observed.inverse()
    candidates = search.poses(points, normals, start, n_best=_N_CANDIDATES, rng=rng)
    if start is not None:
        candidates = [start, *candidates]
    # One frame for all candidates, or their distances could not be compared.
    frame = _frame(points, candidates[0].scale)
    few = np.sort(rng.permutation(len(ids))[:_N_COARSE_POINTS])
    coarse = _cloud(frame, points, normals, anchors, ids[few], observation)
    pose = _best_pose(LinearEnergy(surface, (coarse,)), [frame @ candidate for candidate in candidates], settings)
    exact = _frame(points, pose.scale * candidates[0].scale)
    return exact, _cloud(exact, points, normals, anchors, ids, observation), exact @ frame.inverse() @ pose


def _best_pose(energy: LinearEnergy, poses: list[Similarity], settings: FitConfig) -> Similarity:
    """Fit coarsely from each pose and give the one that explains the points best."""
    best, lowest = poses[0], np.inf
    for start in poses:
        codes, _, spread = _minimise(energy, energy.start((start,)), _COARSE_STEPS, settings)
        value = energy.value(codes, energy.match(codes), _kernel(settings, 1.0, (_COMPARED_STD_MM,)))
        log.debug("start: energy %.1f, spread %.2f mm", value, spread[0])
        if value < lowest:
            lowest, best = value, codes.poses[0]
    return best


def _minimise(
    energy: LinearEnergy, codes: Codes, n_steps: int, settings: FitConfig
) -> tuple[Codes, list[float], tuple[float, ...]]:
    """Run Levenberg-Marquardt; give the codes, the energy after each iteration, and the points' spread."""
    matches = energy.match(codes)
    spread = energy.spread_mm(matches)
    damping, energies, n_still = 1e-3, [], 0
    for step in range(n_steps):
        progress = min(1.0, step / max(1.0, _ANNEALED_SHARE * n_steps))
        kernel = _kernel(settings, progress, spread)
        before = energy.value(codes, matches, kernel)
        hessian, gradient = energy.normal_equations(codes, matches, kernel)
        after = before
        for _ in range(_MAX_TRIALS):
            damped = hessian + damping * np.diag(np.diag(hessian) + 1e-9)
            trial = energy.moved(codes, np.linalg.solve(damped, -gradient))
            found = energy.match(trial)
            value = energy.value(trial, found, kernel)
            if value < before:
                codes, matches, after = trial, found, value
                damping = max(damping / 5, 1e-6)
                break
            damping = min(damping * 10, 1e6)
        energies.append(after)
        spread = energy.spread_mm(matches)
        n_still = n_still + 1 if progress >= 1 and before - after < _CONVERGED * before else 0
        if n_still >= 2:
            break
    return codes, energies, spread


def _kernel(settings: FitConfig, progress: float, spread: tuple[float, ...]) -> Kernel:
    start = max(_KERNEL_START_MM, settings.robust_mm)
    scale = start ** (1 - progress) * settings.robust_mm**progress
    return Kernel(scale, spread, 1.0, settings.weight_landmarks)


def _checked(observation: LinearObservation) -> tuple[ndarray, ndarray | None, ndarray | None]:
    """Give finite points as float64, with their normals, and the anchors."""
    kept = np.isfinite(observation.points).all(1)
    if kept.sum() < _MIN_POINTS:
        raise FittingError(
            f"the scan has {int(kept.sum())} points; expected at least {_MIN_POINTS}. Give more points of the head, or "
            "leave this scan out"
        )
    normals = None if observation.normals is None else observation.normals[kept].astype(np.float64)
    anchors = None if observation.anchors is None else observation.anchors.astype(np.float64)
    return observation.points[kept].astype(np.float64), normals, anchors


def _frame(points: Float[ndarray, "n 3"], unit: float) -> Similarity:
    """Give the map that centres points and gives them canonical size, `unit` being a canonical unit in theirs."""
    return Similarity(1 / unit, np.eye(3), -points.mean(0) / unit)


def _cloud(
    frame: Similarity,
    points: Float[ndarray, "n 3"],
    normals: Float[ndarray, "n 3"] | None,
    anchors: Float[ndarray, "n_anchors 3"] | None,
    ids: Int[ndarray, " m"],
    observation: LinearObservation,
) -> Cloud:
    """Give some of the points in a frame, with what is known of the scale."""
    start = observation.T_canonical_observed
    return Cloud(
        frame.apply(points[ids]),
        None if normals is None else normals[ids],
        None if anchors is None else frame.apply(anchors),
        scale=1.0 if start is None else frame.scale / start.scale,
        log_scale_std=np.inf if start is None else observation.log_scale_std,
    )
