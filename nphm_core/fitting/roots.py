"""Canonical points of observed ones: the roots of x + deformation(x) = y for a forward expression field.

Broyden's method from a start near the root, with the analytic 3x3 Jacobian at the beginning of every round, so that
Newton's method takes over where Broyden's estimate has gone astray (SNARF, Chen et al., ICCV 2021, has the estimate
only). Every point keeps its best iterate; a step that does not improve it is shortened. Points that are found leave the
computation after each round. Whether any is left is asked after every step: on a GPU the answer has to be waited for,
but a step is sixty calls, and from the roots of nearby codes one or two steps suffice. Points that no round finds are
started again from places around them. Those that had no root at nearby codes get one round: two or three points of a
thousand have none, and would make every search as long as it may be. Canonical units.

A root depends on codes, pose and observed point. `attached` gives it with the gradients of the implicit function
theorem: one more step of Newton's method in which only the residual carries gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nphm_core.models.expression_field import ExpressionField

_STEPS_A_ROUND = 4
_WARM_STEPS = 8
"""At most, from the roots of nearby codes, unless the search is to be thorough."""
_MAX_STEP = 0.1
_MIN_STEP_SHARE = 0.05
_MIN_DETERMINANT = 1e-3
RESTART_DISTANCE = 0.05
"""How far from an observed point its search starts again; the released code's spread of starts."""


@runtime_checkable
class DeformationField(Protocol):
    """What is needed of an expression field."""

    def deformation(self, points: Tensor, condition: Tensor, expression_code: Tensor) -> Tensor:
        """Give offsets from canonical to posed space."""

    def deformation_and_jacobian(
        self, points: Tensor, condition: Tensor, expression_code: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Give offsets and their derivatives by the point."""


@dataclass(frozen=True)
class Roots:
    """Canonical points, found or not."""

    points: Float[Tensor, "n_heads n_points 3"]
    """The best iterate of each point."""
    inverse_jacobian: Float[Tensor, "n_heads n_points 3 3"]
    """Of the map from canonical to posed space, at these points."""
    distance: Float[Tensor, "n_heads n_points"]
    """From the posed point to the observed one."""
    converged: Bool[Tensor, "n_heads n_points"]


@dataclass(frozen=True)
class _Search:
    """What stays the same in a search."""

    deformation: Callable[[Tensor], Tensor]
    deformation_and_jacobian: Callable[[Tensor], tuple[Tensor, Tensor]]
    tolerance: float

    @classmethod
    def of(cls, field: DeformationField, condition: Tensor, expression_code: Tensor, tolerance: float) -> "_Search":
        """Search in a field at some codes."""
        if isinstance(field, ExpressionField):
            fixed = field.at(condition, expression_code)
            return cls(fixed.deformation, fixed.deformation_and_jacobian, tolerance)
        return cls(
            lambda points: field.deformation(points, condition, expression_code),
            lambda points: field.deformation_and_jacobian(points, condition, expression_code),
            tolerance,
        )


@dataclass
class _State:
    """Iterates of some points; `residual` is posed minus observed."""

    points: Float[Tensor, "n_heads n 3"]
    residual: Float[Tensor, "n_heads n 3"]
    inverse: Float[Tensor, "n_heads n 3 3"]


@torch.no_grad()
def find_canonical(
    field: DeformationField,
    observed: Float[Tensor, "n_heads n_points 3"],
    condition: Float[Tensor, "n_heads n_condition"],
    expression_code: Float[Tensor, "n_heads n_code"],
    *,
    n_steps: int,
    tolerance: float,
    start: Roots | Float[Tensor, "n_heads n_points 3"] | None = None,
    restart: bool = True,
) -> Roots:
    """Find canonical points; the search begins at `start`, or at the observed points if it is None.

    Roots of nearby codes save the first Jacobian as well. Carries no gradients; see `attached`. A point counts as
    found when its distance is at most `tolerance`.
    """
    search = _Search.of(field, condition, expression_code, tolerance)
    if isinstance(start, Roots):
        state = _searched(search, observed, start.points, n_steps, start, is_thorough=restart)
    else:
        begin = observed if start is None else torch.where(torch.isfinite(start), start, observed)
        state = _searched(search, observed, begin, n_steps)
    if restart:
        state = _restarted(search, observed, state, n_steps)
    # Normals and gradients need the slope itself: Broyden's estimate serves the search only.
    state = _linearised(search, observed, state.points)
    distance = state.residual.norm(dim=2)
    return Roots(state.points, state.inverse, distance, distance <= tolerance)


def attached(
    field: DeformationField,
    roots: Roots,
    observed: Float[Tensor, "n_heads n_points 3"],
    condition: Float[Tensor, "n_heads n_condition"],
    expression_code: Float[Tensor, "n_heads n_code"],
) -> Float[Tensor, "n_heads n_points 3"]:
    """Give canonical points with gradients by codes and observed points, one Newton step nearer to the root."""
    points = roots.points.detach()
    residual = points + field.deformation(points, condition, expression_code) - observed
    return points - (roots.inverse_jacobian.detach() @ residual[..., None])[..., 0]


def inverse_matrices(matrices: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Invert 3x3 matrices by cofactors; nearly singular ones get a large finite inverse instead of an error."""
    a, b, c = matrices.unbind(dim=-2)
    rows = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=-1)
    determinant = (a * rows[..., 0]).sum(dim=-1)
    sign = torch.where(determinant < 0, -1.0, 1.0)
    return rows / (sign * determinant.abs().clamp_min(_MIN_DETERMINANT))[..., None, None]


def _searched(
    search: _Search,
    observed: Tensor,
    start: Tensor,
    n_steps: int,
    nearby: Roots | None = None,
    *,
    is_thorough: bool = True,
) -> _State:
    """Run rounds until all points are found or the steps are used up.

    With roots of nearby codes, unless it is thorough, what has none there gets one round.
    """
    lost = None
    if nearby is not None and not is_thorough:
        lost, n_steps = ~nearby.converged, min(n_steps, _WARM_STEPS)
    hopeless: Tensor | None = None
    if nearby is None:
        state = _linearised(search, observed, start)
    else:
        offset = search.deformation(start)
        state = _State(start, start + offset - observed, nearby.inverse_jacobian)
    done = 0
    while done < n_steps:
        ids = _unfinished(state, search.tolerance, hopeless)
        n_left = observed.shape[1] if ids is None else ids.shape[1]
        if n_left == 0:
            break
        part, part_observed, part_hopeless = state, observed, lost
        if ids is not None:
            part = _State(_taken(state.points, ids), _taken(state.residual, ids), _taken(state.inverse, ids))
            part_observed = _taken(observed, ids)
            part_hopeless = None if lost is None else _taken(lost, ids)
        if done:
            part = _linearised(search, part_observed, part.points)
        n_round = min(_STEPS_A_ROUND, n_steps - done)
        part = _stepped(search, part_observed, part, n_round, part_hopeless)
        if ids is None:
            state = part
        else:
            _put(state, ids, part)
        done += n_round
        hopeless = lost
    return state


def _linearised(search: _Search, observed: Tensor, points: Tensor) -> _State:
    offset, jacobian = search.deformation_and_jacobian(points)
    eye = torch.eye(3, dtype=points.dtype, device=points.device)
    return _State(points, points + offset - observed, inverse_matrices(eye + jacobian))


def _stepped(search: _Search, observed: Tensor, state: _State, n_steps: int, hopeless: Tensor | None = None) -> _State:
    """Take steps of Broyden's method; the state holds the best iterate of each point at any time.

    Ends before all steps are taken when no point is left to be found but hopeless ones.
    """
    share = torch.ones_like(state.points[..., :1])
    distance = state.residual.norm(dim=2, keepdim=True)
    for k in range(n_steps):
        if k and not _is_any_left(distance[..., 0], search.tolerance, hopeless):
            break
        newton = -(state.inverse @ state.residual[..., None])[..., 0]
        length = newton.norm(dim=2, keepdim=True)
        step = newton * (share * (_MAX_STEP / length.clamp_min(_MAX_STEP)))
        points = state.points + step
        offset = search.deformation(points)
        residual = points + offset - observed
        inverse = _updated_inverse(state.inverse, step, residual - state.residual)
        length = residual.norm(dim=2, keepdim=True)
        better = length < distance
        share = torch.where(better, (2 * share).clamp_max(1.0), (0.5 * share).clamp_min(_MIN_STEP_SHARE))
        state = _State(
            torch.where(better, points, state.points), torch.where(better, residual, state.residual), inverse
        )
        distance = torch.where(better, length, distance)
    return state


def _is_any_left(distance: Tensor, tolerance: float, hopeless: Tensor | None) -> bool:
    left = distance > tolerance
    return bool((left if hopeless is None else left & ~hopeless).any())


def _updated_inverse(inverse: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """Apply Broyden's update ("good", Broyden 1965, eq. 2.11 in its inverse form) where it is safe."""
    predicted = (inverse @ change[..., None])[..., 0]
    row = (step[..., None, :] @ inverse)[..., 0, :]
    scale = (step * predicted).sum(dim=-1, keepdim=True)
    safe = scale.abs() > 0.1 * (step * step).sum(dim=-1, keepdim=True)
    factor = (step - predicted) / torch.where(safe, scale, torch.ones_like(scale))
    updated = inverse + factor[..., None] * row[..., None, :]
    return torch.where(safe[..., None], updated, inverse)


def _unfinished(
    state: _State, tolerance: float, hopeless: Bool[Tensor, "n_heads n"] | None = None
) -> Int[Tensor, "n_heads n_largest"] | None:
    """List the unfinished points of each head; None for all points.

    Heads with fewer of them get finished ones to fill up.
    """
    active = state.residual.norm(dim=2) > tolerance
    if hopeless is not None:
        active = active & ~hopeless
    n_largest = int(active.sum(dim=1).max()) if active.numel() else 0
    if n_largest == active.shape[1] > 0:
        return None
    return active.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :n_largest]


def _restarted(search: _Search, observed: Tensor, state: _State, n_steps: int) -> _State:
    """Search again for the points that were not found, from four corners of a tetrahedron around them."""
    ids = _unfinished(state, search.tolerance)
    if ids is None:
        ids = torch.arange(observed.shape[1], device=observed.device).expand(len(observed), -1)
    n_left = ids.shape[1]
    if n_left == 0:
        return state
    corners = observed.new_tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
    targets = _taken(observed, ids)[:, :, None].expand(-1, -1, len(corners), -1)
    starts = targets + RESTART_DISTANCE * 3**-0.5 * corners
    found = _searched(search, targets.flatten(1, 2), starts.flatten(1, 2), n_steps)
    shape = (len(observed), n_left, len(corners))
    best = found.residual.norm(dim=2).view(shape).argmin(dim=2)
    picked = (torch.arange(n_left, device=best.device) * len(corners)) + best
    again = _State(*(_taken(part, picked) for part in (found.points, found.residual, found.inverse)))
    before = _State(*(_taken(part, ids) for part in (state.points, state.residual, state.inverse)))
    better = again.residual.norm(dim=2) < before.residual.norm(dim=2)
    _put(
        state,
        ids,
        _State(
            torch.where(better[..., None], again.points, before.points),
            torch.where(better[..., None], again.residual, before.residual),
            torch.where(better[..., None, None], again.inverse, before.inverse),
        ),
    )
    return state


def _taken(values: Tensor, ids: Int[Tensor, "n_heads n"]) -> Tensor:
    index = ids.view(*ids.shape, *[1] * (values.dim() - 2)).expand(*ids.shape, *values.shape[2:])
    return values.gather(1, index)


def _put(state: _State, ids: Int[Tensor, "n_heads n"], part: _State) -> None:
    """Put iterates back, into copies: nothing that a caller holds is changed."""
    for name in ("points", "residual", "inverse"):
        whole, values = getattr(state, name), getattr(part, name)
        index = ids.view(*ids.shape, *[1] * (values.dim() - 2)).expand_as(values)
        setattr(state, name, whole.scatter(1, index, values))
