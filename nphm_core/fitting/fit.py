"""Fit of a neural head model to observed points: codes and pose, any number of subjects and of scans of each.

Three phases, all Levenberg-Marquardt on one energy. First a pose for each scan: trimmed ICP of the mean head from many
starts, or the anchors where they are known, and a coarse fit from the best of them, with few points and codes that
stay in the span of the training codes; the lowest energy wins. Then more points, still in that span, while the robust
kernel narrows. At last all numbers of the codes are free, held by their priors alone: first with the same points, and
from where that ends with all of them, since a step costs as much as it has points and the last few steps suffice.
Canonical points are warm-started from step to step, which needs the same points in every step: they are drawn once for
each of these, and those of a new draw start from what their neighbours in the last one found.

Points may be in any unit and pose. Where the unit is known the scale is held near it; elsewhere the size is found.
"""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from nphm_core.config import FitConfig
from nphm_core.errors import FittingError
from nphm_core.fitting.clouds import Prepared, clouds_of, prepare, start_variables
from nphm_core.fitting.code_priors import CodePriors
from nphm_core.fitting.energy import HeadEnergy, Kernel
from nphm_core.fitting.linear_start import StartSearch
from nphm_core.fitting.mean_head import mean_head_points
from nphm_core.fitting.observations import Observation, checked_observation
from nphm_core.fitting.roots import Roots
from nphm_core.fitting.solver import Minimum, minimise
from nphm_core.fitting.variables import Bases, Basis, Clouds, Variables
from nphm_core.models.dispatch import plain_operations
from nphm_core.models.neural_head import NeuralHead
from nphm_core.spaces import Similarity

log = logging.getLogger(__name__)

_N_COARSE_POINTS = 400
_N_EARLY_POINTS = 1000
"""Until the last steps: the energy counts a scan's points as `n_independent` measurements, however many there are."""
_COARSE_STEPS, _SPAN_STEPS = 8, 12
_LAST_SHARE = 3
"""With all points a third of the steps: each costs several of those before, and the first ones gain the most."""
_COMPARED_STD_MM = 1.0
_COARSE_ROBUST_MM = 10.0
_MAX_SPAN = 60
_MAX_SCANS = 48
"""Scans that are fitted at once: with 2500 points of the default model some 20 GB."""


@dataclass(frozen=True)
class FitResult:
    """A neural head fitted to one subject's scans."""

    identity_code: Float[ndarray, " n_identity"]
    expression_codes: Float[ndarray, "n_scans n_expression"]
    T_canonical_observed: tuple[Similarity, ...]
    """From each scan's own frame and unit to canonical space."""
    residual_mm: tuple[float, ...]
    """Median distance of each scan's points from the surface, in canonical mm."""
    residual_p95_mm: tuple[float, ...]
    converged_share: tuple[float, ...]
    """Points of each scan that have a canonical point."""
    energies: tuple[float, ...]
    """After each step of the last two phases; each has its own kernel, and the last ones have more points."""
    seconds: float
    """Of all subjects that were fitted together, divided by their number."""


def fit_heads(
    head: NeuralHead,
    problems: list[tuple[Observation, ...]],
    settings: FitConfig,
    *,
    generator: torch.Generator,
) -> list[FitResult]:
    """Fit the model to subjects, each with one or more scans that share the identity.

    The device is the model's. Raises FittingError where a scan has hardly any points.
    """
    if not problems or not all(problems):
        raise ValueError("every subject needs at least one observation")
    is_trained = [parameter.requires_grad for parameter in head.parameters()]
    try:
        # Gradients of weights would be computed and thrown away.
        head.requires_grad_(False)
        # Slopes come from plain operations, as each point has a code of its own there: a trial of a step that was
        # rounded otherwise, to 1e-4, would end a fit early.
        with plain_operations():
            return [result for part in _batches(problems) for result in _fit(head, part, settings, generator)]
    finally:
        for parameter, flag in zip(head.parameters(), is_trained, strict=True):
            parameter.requires_grad_(flag)


def _fit(
    head: NeuralHead,
    problems: list[tuple[Observation, ...]],
    settings: FitConfig,
    generator: torch.Generator,
) -> list[FitResult]:
    started = time.perf_counter()
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
    priors = CodePriors.of(head, settings)
    checked = [tuple(checked_observation(o) for o in scans) for scans in problems]
    span = _span(head)
    log.debug("priors after %.2f s", time.perf_counter() - started)
    prepared = _posed(head, checked, priors, span, settings, generator, rng)
    log.debug("poses after %.2f s", time.perf_counter() - started)
    early = settings.model_copy(update={"n_points": min(_N_EARLY_POINTS, settings.n_points)})
    energy = _energy(head, prepared, priors, early, rng)
    variables = start_variables(head, prepared, energy.clouds)
    found = minimise(energy, variables, span, _SPAN_STEPS, anneal=True, robust_mm=settings.robust_mm)
    log.debug("span after %.2f s", time.perf_counter() - started)
    energies, n_steps = list(found.energies), settings.n_steps
    start: Roots | Tensor | None = found.found.roots
    if early.n_points < settings.n_points:
        found = _freed(energy, found, n_steps, settings, start)
        log.debug("all codes after %.2f s", time.perf_counter() - started)
        energies += found.energies
        known = energy.clouds
        energy, n_steps = _energy(head, prepared, priors, settings, rng), -(-n_steps // _LAST_SHARE)
        start = energy.guesses(found.variables, known, found.found)
    best = _freed(energy, found, n_steps, settings, start)
    log.debug("all points after %.2f s", time.perf_counter() - started)
    energies += best.energies
    seconds = (time.perf_counter() - started) / len(problems)
    return _results(prepared, energy.clouds, replace(best, energies=energies), seconds)


def _freed(
    energy: HeadEnergy, found: Minimum, n_steps: int, settings: FitConfig, start: Roots | Tensor | None
) -> Minimum:
    """Move all numbers of the codes."""
    everything = _all(energy.head)
    return minimise(
        energy, found.variables, everything, n_steps, anneal=False, robust_mm=settings.robust_mm, start=start
    )


def _energy(
    head: NeuralHead,
    prepared: list[tuple[Prepared, ...]],
    priors: CodePriors,
    settings: FitConfig,
    rng: np.random.Generator,
) -> HeadEnergy:
    """Draw points of all scans and give their energy."""
    return HeadEnergy(head, clouds_of(prepared, settings, rng=rng, like=head.identity_prior.mean), priors, settings)


def _batches(problems: list[tuple[Observation, ...]]) -> list[list[tuple[Observation, ...]]]:
    """Divide subjects so that a part has no more scans than memory holds, or one subject."""
    parts: list[list[tuple[Observation, ...]]] = []
    n_scans = _MAX_SCANS
    for scans in problems:
        if n_scans + len(scans) > _MAX_SCANS:
            parts.append([])
            n_scans = 0
        parts[-1].append(scans)
        n_scans += len(scans)
    return parts


def _posed(
    head: NeuralHead,
    problems: list[tuple[Observation, ...]],
    priors: CodePriors,
    span: Bases,
    settings: FitConfig,
    generator: torch.Generator,
    rng: np.random.Generator,
) -> list[tuple[Prepared, ...]]:
    """Find a pose for each scan: candidates, a coarse fit from each of them, the best."""
    # PyTorch's number of threads is what the command was given.
    n_threads = max(1, torch.get_num_threads())
    flat = _flat(problems)
    marks = [time.perf_counter()]
    search = StartSearch(*mean_head_points(head, generator=generator), n_threads=max(1, n_threads // len(flat)))
    marks.append(time.perf_counter())
    means = head.identity.anchors(head.identity_prior.mean[None])[0].double().cpu().numpy()
    rngs = rng.spawn(len(flat))
    with ThreadPoolExecutor(max_workers=n_threads) as pool:
        found = pool.map(lambda o, r: prepare(o[1], search, means, settings, rng=r), flat, rngs)
        scans = [(subject, scan) for (subject, _), scan in zip(flat, found, strict=True)]
    marks.append(time.perf_counter())
    # Each candidate is a subject of its own.
    singles: list[tuple[Prepared, ...]] = [(replace(c, pose=pose),) for _, c in scans for pose in c.candidates]
    few = settings.model_copy(update={"n_points": _N_COARSE_POINTS})
    energy = _energy(head, singles, priors, few, rng)
    start = start_variables(head, singles, energy.clouds)
    coarse = minimise(energy, start, span, _COARSE_STEPS, anneal=True, robust_mm=_COARSE_ROBUST_MM)
    value = _comparable(energy, coarse, settings)
    marks.append(time.perf_counter())
    log.debug("mean head %.2f s, search for starts %.2f s, coarse fits %.2f s", *np.diff(marks))
    poses = _similarities(coarse.variables)
    out: list[list[Prepared]] = [[] for _ in problems]
    first = 0
    for subject, scan in scans:
        own = slice(first, first + len(scan.candidates))
        best = first + int(np.argmin(value[own]))
        log.debug("energies of the starts: %s", np.round(value[own], 1))
        out[subject].append(scan.with_pose(poses[best]))
        first = own.stop
    return [tuple(scans) for scans in out]


def _comparable(energy: HeadEnergy, found: Minimum, settings: FitConfig) -> Float[ndarray, " n"]:
    """Give energies under one kernel and one spread, in which those of different starts can be compared."""
    spread = torch.full_like(energy.clouds.log_scale, _COMPARED_STD_MM)
    value = energy.value(found.variables, found.found, Kernel(settings.robust_mm, spread))
    return torch.nan_to_num(value, nan=torch.inf).double().cpu().numpy()


def _flat(problems: list[tuple[Observation, ...]]) -> list[tuple[int, Observation]]:
    return [(subject, observation) for subject, scans in enumerate(problems) for observation in scans]


def _span(head: NeuralHead) -> Bases:
    """Give the strongest directions of the training codes, scaled by their deviations."""
    return Bases(*(Basis.of(p.strongest(_MAX_SPAN)) for p in (head.identity_prior, head.expression_prior)))


def _all(head: NeuralHead) -> Bases:
    return Bases(Basis.whole(head.identity_prior.n_code), Basis.whole(head.expression_prior.n_code))


def _similarities(variables: Variables) -> list[Similarity]:
    rotation, translation, log_scale = (
        part.double().cpu().numpy() for part in (variables.rotation, variables.translation, variables.log_scale)
    )
    out = []
    for k in range(len(log_scale)):
        # Many small float32 turns leave the rotation slightly off.
        u, _, vt = np.linalg.svd(rotation[k])
        out.append(Similarity(float(np.exp(log_scale[k])), u @ vt, translation[k]))
    return out


def _results(prepared: list[tuple[Prepared, ...]], clouds: Clouds, best: Minimum, seconds: float) -> list[FitResult]:
    poses = _similarities(best.variables)
    identity, expression = (
        part.double().cpu().numpy() for part in (best.variables.identity, best.variables.expression)
    )
    distance = best.found.distance_mm.abs() * best.variables.log_scale.exp()[:, None]
    used = clouds.weights > 0
    median, p95 = (_quantile(distance, used, share) for share in (0.5, 0.95))
    roots = best.found.roots
    converged = used if roots is None else used & roots.converged
    share = (converged.sum(dim=1) / used.sum(dim=1)).tolist()
    out, row = [], 0
    for subject, scans in enumerate(prepared):
        own = slice(row, row + len(scans))
        out.append(
            FitResult(
                identity[subject],
                expression[own],
                tuple(pose @ scan.frame for pose, scan in zip(poses[own], scans, strict=True)),
                tuple(median[own]),
                tuple(p95[own]),
                tuple(share[own]),
                tuple(float(e[subject]) for e in best.energies),
                seconds,
            )
        )
        row = own.stop
    if not all(np.isfinite(result.identity_code).all() for result in out):
        raise FittingError(
            "the fit diverged: a code is not finite; expected numbers. Check that the model is trained, and that the "
            "points are those of a head"
        )
    return out


def _quantile(values: Tensor, used: Tensor, share: float) -> list[float]:
    masked = torch.where(used, values, torch.nan)
    return [float(v) for v in masked.double().nanquantile(share, dim=1)]
