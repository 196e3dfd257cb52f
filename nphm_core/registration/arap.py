"""As-rigid-as-possible registration of the fitted, subdivided template to a scan.

The rest pose is the posed linear fit. From the coarsest level to the finest, outer iterations find the plane of the
scan that each vertex belongs to, refit a rotation to every vertex's neighbourhood, and solve for all positions at
once (Sorkine and Alexa 2007, with the coupled point-to-plane term of Chen and Medioni 1991). What passes from one
level to the next is the displacement, so the rest pose keeps its detail. Stiffness and robust scale shrink on the way.
Vertices without correspondences (hair, holes, unseen parts) follow the rigidity alone. Positions in mm, metric space.
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
from nphm_core.registration.arap_repair import RimPair, uncross, unflip
from nphm_core.registration.correspondences import Correspondences, ScanTarget, Trust
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
    """Triangles turned by more than a right angle from the rest pose, after the repair."""
    n_crossed: int
    """Vertices of lips and eyelids that have crossed the other side, after the repair."""


def trust_of_regions(regions: dict[str, Bool[ndarray, " n"]], n_vertices: int) -> Trust:
    """Say which template vertices may follow the scan: not the eyeballs and the mouth's inside."""
    hidden = np.zeros(n_vertices, bool)
    for name in ("eyeballs", "mouth_interior"):
        hidden |= regions.get(name, False)
    hair = np.zeros(n_vertices, bool) | regions.get("hair_prone", False)
    return Trust((~hidden).astype(float), hair.astype(float))


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
    finest = _finest_rest(rest, faces, hierarchy)
    all_faces = [faces, *(step.faces for step in hierarchy)]
    schedule = _schedule(config, len(all_faces))
    vertices, log = np.array(finest[: _n_coarse(hierarchy, len(finest))]), []
    for level_index, level_faces in enumerate(all_faces):
        if level_index:
            step = hierarchy[level_index - 1]
            moved = step.matrix @ (vertices - finest[: len(vertices)])
            vertices = finest[: len(moved)] + moved
            trust = Trust(step.matrix @ trust.weights, step.matrix @ trust.hair_prone)
            pairs = [pair.subdivided(step) for pair in pairs]
        level = RigidLevel(finest[: len(vertices)], level_faces)
        for stiffness, robust_mm in schedule[level_index]:
            data = _correspondences(target, level, vertices, trust, config, robust_mm)
            for _ in range(_ROUNDS if level_index == 0 else 1):
                vertices, n_steps = level.solve(vertices, data, stiffness)
            log.append(
                _logged(level_index, stiffness, robust_mm, data, n_steps, level.energies(vertices, data, stiffness))
            )
            _check_found(log[-1])
    vertices, data, n_crossed = uncross(level, vertices, data, stiffness, pairs)
    vertices, data, n_flipped = unflip(level, vertices, data, stiffness)
    vertices = _with_loose_parts(level, vertices, trust)
    final = _correspondences(target, level, vertices, trust, config, config.robust_end_mm)
    weights = np.minimum(final.weights, data.weights > 0)
    return ArapResult(vertices, finest, weights, final.distances, tuple(log), n_flipped, n_crossed)


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
        distance = _distances_to(level.rest[anchors], level.rest[own])
        near = anchors[distance < distance.min() + _SOCKET_MM]
        if len(near) >= 3:
            move = align_points(level.rest[near], vertices[near], with_scale=False)
            out[own] = move.apply(level.rest[own])
    return out


def _distances_to(points: ndarray, others: ndarray) -> ndarray:
    from nphm_core.geometry.closest import ClosestPoints

    return ClosestPoints(others, np.empty((0, 3), np.int64)).query(points).distance
