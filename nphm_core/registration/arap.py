"""As-rigid-as-possible registration of the fitted, subdivided template to a scan.

The rest pose is the posed linear fit, its lips and eyelids opened where they cross. From the coarsest level to the
finest, outer iterations find the plane of the scan that each vertex belongs to, refit a rotation to every vertex's
neighbourhood, and solve for all positions at once (Sorkine and Alexa 2007, with the coupled point-to-plane term of Chen
and Medioni 1991). What passes from one level to the next is the displacement, so the rest pose keeps its detail.
Stiffness and robust scale shrink on the way. Vertices without correspondences (hair, holes, unseen parts) follow the
rigidity alone. Positions in mm, metric space.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.config import ArapConfig
from nphm_core.errors import RegistrationError
from nphm_core.geometry.subdivision import Subdivision, subdivide_surface
from nphm_core.registration.arap_level import RigidLevel
from nphm_core.registration.arap_repair import crossing_faces, repair
from nphm_core.registration.arap_rest import opened_rest
from nphm_core.registration.correspondences import Correspondences, ScanTarget, Trust
from nphm_core.registration.rims import RimPair
from nphm_core.spaces import align_points

_POINT_SHARE = 0.01
"""Share of the point-to-point term: enough to condition the system, too little to hinder sliding."""
_ROUNDS = 3
"""Rotations and positions of the coarsest level are improved this often for one set of correspondences: cheap there,
and rotations travel one ring of triangles at a time."""
_SOCKET_MM = 6.0
"""A loose part follows the vertices that are at most this much farther from it than the nearest one."""


@dataclass(frozen=True)
class Iteration:
    """What one outer iteration saw and did."""

    level: int
    """0 is the coarsest."""
    stiffness: float
    robust_mm: float
    n_corresponding: int
    """Vertices with a weight above one half."""
    median_mm: float
    """Median distance of these before the solution; NaN without any."""
    solver_steps: int
    rigid_energy: float
    """After the solution, mm^2, with its weight."""
    data_energy: float


@dataclass(frozen=True)
class ArapResult:
    """A registered mesh in the finest topology."""

    vertices: Float[ndarray, "n_fine 3"]
    rest: Float[ndarray, "n_fine 3"]
    """The linear fit, subdivided."""
    weights: Float[ndarray, " n_fine"]
    """How far each vertex follows the scan, in [0, 1]; 0 where it follows the rigidity alone."""
    distances_mm: Float[ndarray, " n_fine"]
    """Distance to the scan; infinite where nothing lies within the distance limit."""
    iterations: tuple[Iteration, ...]
    n_flipped: int
    """Triangles turned over or folded, unlike at rest, that the repair could not help."""
    n_crossed: int
    """Pairs of triangles of opposite lips or lids that still cross."""
    n_crossed_at_rest: int
    """The same in the linear fit, which may have closed the lips too far."""


def trust_of_regions(regions: dict[str, Bool[ndarray, " n"]], n_vertices: int, *, is_bald: bool = False) -> Trust:
    """Say which template vertices may follow the scan: not the eyeballs and the mouth's inside.

    `is_bald` as the linear fit found it. Ears stay what they are: there the scan is more often torn than covered.
    """
    none = np.zeros(n_vertices, bool)
    hidden = none | regions.get("eyeballs", False) | regions.get("mouth_interior", False)
    hair = none | regions.get("hair_prone", False)
    bald = hair & ~(none | regions.get("ears", False)) if is_bald else none
    return Trust((~hidden).astype(float), hair.astype(float), bald.astype(float))


def register_arap(
    rest: Float[ndarray, "n_rest 3"],
    faces: Int[ndarray, "n_faces 3"],
    hierarchy: Sequence[Subdivision],
    target: ScanTarget,
    config: ArapConfig,
    *,
    trust: Trust,
    pairs: Sequence[RimPair] = (),
) -> ArapResult:
    """Deform the fitted template to a scan.

    `rest` has either the coarse vertices or those of the finest level; `faces`, `trust` and `pairs` are of the
    coarse template. Raises RegistrationError where no vertex finds the scan.
    """
    fitted = _finest_rest(rest, faces, hierarchy)
    finest = opened_rest(fitted, faces, hierarchy, pairs)
    all_faces = [faces, *(step.faces for step in hierarchy)]
    vertices, log = np.array(finest[: _n_coarse(hierarchy, len(finest))]), []
    for index, steps in enumerate(_schedule(config, len(all_faces))):
        if index:
            refine = hierarchy[index - 1].matrix
            vertices = finest[: refine.shape[0]] + refine @ (vertices - finest[: len(vertices)])
            trust = trust.subdivided(hierarchy[index - 1])
            pairs = [pair.subdivided(hierarchy[index - 1]) for pair in pairs]
        level = RigidLevel(finest[: len(vertices)], all_faces[index])
        for stiffness, robust_mm in steps:
            data = _correspondences(target, level, vertices, trust, config, robust_mm)
            for _ in range(1 if index else _ROUNDS):
                vertices, n_steps = level.solve(vertices, data, stiffness)
            energies = level.energies(vertices, data, stiffness)
            log.append(_logged(index, stiffness, robust_mm, data, n_steps, energies))
            _check_found(log[-1])
    repaired = repair(level, vertices, data, stiffness, pairs)
    vertices = _with_loose_parts(level, repaired.vertices, trust)
    final = _correspondences(target, level, vertices, trust, config, config.robust_end_mm)
    return ArapResult(
        vertices,
        fitted,
        np.where(repaired.data.weights > 0, final.weights, 0.0),
        final.distances,
        tuple(log),
        repaired.n_flipped,
        repaired.n_crossed,
        sum(len(crossing_faces(fitted, level.faces, pair)) for pair in pairs),
    )


def _n_coarse(hierarchy: Sequence[Subdivision], n_finest: int) -> int:
    return hierarchy[0].n_coarse_vertices if hierarchy else n_finest


def _finest_rest(rest: ndarray, faces: ndarray, hierarchy: Sequence[Subdivision]) -> ndarray:
    # The first vertices of the finest level are the coarse ones, smoothed: all levels then sample one surface.
    n_finest = hierarchy[-1].n_vertices if hierarchy else len(rest)
    if len(rest) == n_finest:
        return np.ascontiguousarray(rest, float)
    if len(rest) == _n_coarse(hierarchy, n_finest):
        return np.ascontiguousarray(subdivide_surface(hierarchy, faces, rest), float)
    raise ValueError(f"the rest pose has {len(rest)} vertices; expected {_n_coarse(hierarchy, n_finest)} or {n_finest}")


def _schedule(config: ArapConfig, n_levels: int) -> list[list[tuple[float, float]]]:
    # Stiffness and robust scale of each outer iteration, geometric over all levels.
    counts = [config.iterations[min(level, len(config.iterations) - 1)] for level in range(n_levels)]
    t = np.linspace(0, 1, max(sum(counts), 1)) if sum(counts) > 1 else np.ones(1)
    stiffness = config.stiffness_start ** (1 - t) * config.stiffness_end**t
    robust = config.robust_start_mm ** (1 - t) * config.robust_end_mm**t
    steps = list(zip(stiffness.tolist(), robust.tolist(), strict=True))
    ends = np.cumsum(counts)
    return [steps[end - count : end] for count, end in zip(counts, ends, strict=True)]


def _correspondences(
    target: ScanTarget, level: RigidLevel, vertices: ndarray, trust: Trust, config: ArapConfig, robust_mm: float
) -> Correspondences:
    return target.correspondences(
        vertices,
        level.normals(vertices),
        level.rest,
        trust,
        robust_mm=robust_mm,
        max_distance_mm=config.max_distance_mm,
        max_angle_rad=np.radians(config.max_normal_angle_degrees),
        point_share=_POINT_SHARE,
    )


def _logged(
    level: int, stiffness: float, robust_mm: float, data: Correspondences, n_steps: int, energies: tuple[float, float]
) -> Iteration:
    strong = data.weights > 0.5
    median = float(np.median(data.distances[strong])) if strong.any() else float("nan")
    return Iteration(level, stiffness, robust_mm, int(strong.sum()), median, n_steps, *energies)


def _check_found(iteration: Iteration) -> None:
    if iteration.n_corresponding == 0:
        raise RegistrationError(
            "no vertex of the fitted template corresponds to the scan; expected the fit to lie within a few mm of it. "
            "Look at the linear fit: it has probably landed in the wrong place, or the scan's normals point inwards"
        )


def _with_loose_parts(level: RigidLevel, vertices: ndarray, trust: Trust) -> ndarray:
    """Let parts that nothing holds (eyeballs, teeth) follow their surroundings rigidly."""
    from nphm_core.geometry.components import connected_components

    label = connected_components(level.faces, len(vertices))
    held = np.bincount(label, trust.weights) > 0
    out = np.array(vertices)
    anchors = np.flatnonzero(held[label])
    if len(anchors) < 3:
        return out
    for part in np.flatnonzero(~held):
        own = np.flatnonzero(label == part)
        near = _nearest(level.rest, anchors, own)
        if len(near) >= 3:
            move = align_points(level.rest[near], vertices[near], with_scale=False)
            out[own] = move.apply(level.rest[own])
    return out


def _nearest(rest: ndarray, anchors: ndarray, own: ndarray) -> ndarray:
    """Give the anchors around a part: those hardly farther from it than the nearest one."""
    from nphm_core.geometry.closest import ClosestPoints

    margin = 3 * _SOCKET_MM
    low, high = rest[own].min(0) - margin, rest[own].max(0) + margin
    boxed = anchors[((rest[anchors] > low) & (rest[anchors] < high)).all(1)]
    if not len(boxed):
        return boxed
    distance = ClosestPoints(rest[own], np.empty((0, 3), np.int64)).query(rest[boxed]).distance
    return boxed[distance < distance.min() + _SOCKET_MM]
