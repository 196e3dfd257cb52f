"""Fit of the linear head model to observed points: codes and pose, any number of scans of one subject together.

Levenberg-Marquardt on the points' distances to the posed surface (point to plane, found anew in every iteration), with
the Gaussian priors that the components come with, and a kernel that narrows. The start is a search over poses with
the mean head, whose best candidates are fitted coarsely before one is chosen; so the user's start may be far off, or
missing. Points may be in any unit and pose.
"""

import logging
import time

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.config import FitConfig
from nphm_core.fitting.fit import FitResult
from nphm_core.fitting.linear_energy import Cloud, Codes, Kernel, LinearEnergy, Matches
from nphm_core.fitting.linear_start import StartSearch
from nphm_core.fitting.linear_surface import LinearSurface
from nphm_core.fitting.observations import Observation, checked_observation
from nphm_core.models.linear_head import LinearHead
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, Similarity, align_points

log = logging.getLogger(__name__)

_MIN_ANCHORS = 4
_UNKNOWN_SCALE_STD = 0.3
_N_COARSE_POINTS = 500
_COARSE_STEPS, _STEPS = 10, 40
_KERNEL_START_MM = 20.0
_ANNEALED_SHARE = 0.5
_MAX_TRIALS = 5
_CONVERGED = 1e-4
_COMPARED_STD_MM = 1.0


def fit_linear_heads(
    head: LinearHead,
    problems: list[tuple[Observation, ...]],
    settings: FitConfig,
    *,
    generator: torch.Generator,
) -> list[FitResult]:
    """Fit the model to subjects, each with one or more scans that share the identity; called like `fit_heads`.

    Raises FittingError where a scan has hardly any points.
    """
    if not problems or not all(problems):
        raise ValueError("every subject needs at least one observation")
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
    surface = LinearSurface(head)
    search = StartSearch.of_surface(surface, rng=rng)
    return [_fit_subject(surface, search, problem, settings, rng) for problem in problems]


def _fit_subject(
    surface: LinearSurface,
    search: StartSearch,
    observations: tuple[Observation, ...],
    settings: FitConfig,
    rng: np.random.Generator,
) -> FitResult:
    started = time.perf_counter()
    prepared = [_prepare(surface, search, checked_observation(o), settings, rng) for o in observations]
    energy = LinearEnergy(surface, tuple(cloud for _, cloud, _ in prepared), settings)
    codes, matches, energies = _minimise(energy, energy.start(tuple(pose for *_, pose in prepared)), _STEPS, settings)
    # The cloud has about canonical size; its pose says how far from it.
    distances = [found.distance_mm / pose.scale for found, pose in zip(matches, codes.poses, strict=True)]
    return FitResult(
        codes.identity,
        np.stack(codes.expressions),
        tuple(pose.inverse() @ frame for pose, (frame, _, _) in zip(codes.poses, prepared, strict=True)),
        tuple(float(np.median(d)) for d in distances),
        tuple(float(np.quantile(d, 0.95)) for d in distances),
        # Every point has a closest one.
        (1.0,) * len(distances),
        tuple(energies),
        time.perf_counter() - started,
    )


def _prepare(
    surface: LinearSurface,
    search: StartSearch,
    observation: Observation,
    settings: FitConfig,
    rng: np.random.Generator,
) -> tuple[Similarity, Cloud, Similarity]:
    """Give the map from the observed to the cloud's frame, the cloud, and the pose to start from."""
    points = observation.points
    ids = np.sort(rng.permutation(len(points))[: settings.n_points])
    given = observation.T_canonical_observed
    start = None if given is None else given.inverse()
    candidates = search.poses(points, observation.normals, start, n_best=settings.n_starts, rng=rng)
    more = (_anchor_pose(surface, observation), start)
    candidates = [*(pose for pose in more if pose is not None), *candidates]
    # One frame for all candidates, or their distances could not be compared.
    frame = _frame(points, candidates[0].scale)
    few = np.sort(rng.permutation(len(ids))[:_N_COARSE_POINTS])
    coarse = LinearEnergy(surface, (_cloud(frame, observation, ids[few], settings),), settings)
    pose = _best_pose(coarse, [frame @ candidate for candidate in candidates], settings)
    exact = _frame(points, pose.scale * candidates[0].scale)
    return exact, _cloud(exact, observation, ids, settings), exact @ frame.inverse() @ pose


def _anchor_pose(surface: LinearSurface, observation: Observation) -> Similarity | None:
    """Align the mean head's anchors to those on the scan; from canonical space to the scan."""
    if observation.anchors is None:
        return None
    known = np.isfinite(observation.anchors).all(axis=1)
    if known.sum() < _MIN_ANCHORS:
        return None
    code = np.concatenate([np.zeros(surface.n_identity), surface.head.expression_mean.astype(np.float64)])
    return align_points(surface.anchors(code)[known], observation.anchors[known])


def _best_pose(energy: LinearEnergy, poses: list[Similarity], settings: FitConfig) -> Similarity:
    """Fit coarsely from each pose and give the one that explains the points best."""
    best, lowest = poses[0], np.inf
    for start in poses:
        codes, matches, _ = _minimise(energy, energy.start((start,)), _COARSE_STEPS, settings)
        value = energy.value(codes, matches, _kernel(settings, 1.0, (_COMPARED_STD_MM,)))
        log.debug("start: energy %.1f", value)
        if value < lowest:
            lowest, best = value, codes.poses[0]
    return best


def _minimise(
    energy: LinearEnergy, codes: Codes, n_steps: int, settings: FitConfig
) -> tuple[Codes, tuple[Matches, ...], list[float]]:
    """Run Levenberg-Marquardt; give the codes, their matches, and the energy after each iteration."""
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
    return codes, matches, energies


def _kernel(settings: FitConfig, progress: float, spread: tuple[float, ...]) -> Kernel:
    start = max(_KERNEL_START_MM, settings.robust_mm)
    scale = start ** (1 - progress) * settings.robust_mm**progress
    return Kernel(scale, spread)


def _frame(points: Float[ndarray, "n 3"], unit: float) -> Similarity:
    """Give the map that centres points and gives them canonical size, `unit` being a canonical unit in theirs."""
    return Similarity(1 / unit, np.eye(3), -points.mean(0) / unit)


def _cloud(frame: Similarity, observation: Observation, ids: Int[ndarray, " n"], settings: FitConfig) -> Cloud:
    """Give some of the points in a frame, with what is known of them and of their unit."""
    normals = np.zeros((len(ids), 3)) if observation.normals is None else observation.normals[ids]
    mm_per_unit = observation.mm_per_unit
    return Cloud(
        points=frame.apply(observation.points[ids]),
        weights=np.ones(len(ids)) if observation.weights is None else observation.weights[ids],
        normals=normals,
        anchors=None if observation.anchors is None else frame.apply(observation.anchors),
        scale=frame.scale * MM_PER_CANONICAL_UNIT / mm_per_unit if mm_per_unit is not None else 1.0,
        log_scale_std=settings.scale_std if mm_per_unit is not None else _UNKNOWN_SCALE_STD,
    )
