"""Canonical points of observed ones: the roots of x + deformation(x) = y for a forward expression field.

Broyden's method from a start near the root, with the analytic 3x3 Jacobian at the beginning of every round, so that
Newton's method takes over where Broyden's estimate has gone astray (SNARF, Chen et al., ICCV 2021, has the estimate
only). Every point keeps its best iterate; a step that does not improve it is shortened. Points that are found leave the
computation: after each round the rest is moved together, which costs one synchronisation a round and not one a step.
Points that no round finds are started again from places around them. Canonical units.

A root depends on codes, pose and observed point. `attached` gives it with the gradients of the implicit function
theorem: one more step of Newton's method in which only the residual carries gradients.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_STEPS_A_ROUND = 4
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

    field: DeformationField
    condition: Float[Tensor, "n_heads n_condition"]
    expression_code: Float[Tensor, "n_heads n_code"]
    tolerance: float


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
    search = _Search(field, condition, expression_code, tolerance)
    if isinstance(start, Roots):
        state = _searched(search, observed, start.points, n_steps, start.inverse_jacobian)
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


def _searched(search: _Search, observed: Tensor, start: Tensor, n_steps: int, inverse: Tensor | None = None) -> _State:
    """Run rounds until all points are found or the steps are used up."""
    if inverse is None:
        state = _linearised(search, observed, start)
    else:
        offset = search.field.deformation(start, search.condition, search.expression_code)
        state = _State(start, start + offset - observed, inverse)
    done = 0
    while done < n_steps:
        ids = _unfinished(state, search.tolerance)
        if ids.shape[1] == 0:
            break
        part = _State(_taken(state.points, ids), _taken(state.residual, ids), _taken(state.inverse, ids))
        part_observed = _taken(observed, ids)
        if done:
            part = _linearised(search, part_observed, part.points)
        n_round = min(_STEPS_A_ROUND, n_steps - done)
        _put(state, ids, _stepped(search, part_observed, part, n_round))
        done += n_round
    return state


def _linearised(search: _Search, observed: Tensor, points: Tensor) -> _State:
    offset, jacobian = search.field.deformation_and_jacobian(points, search.condition, search.expression_code)
    eye = torch.eye(3, dtype=points.dtype, device=points.device)
    return _State(points, points + offset - observed, inverse_matrices(eye + jacobian))


def _stepped(search: _Search, observed: Tensor, state: _State, n_steps: int) -> _State:
    """Take steps of Broyden's method; the state holds the best iterate of each point at any time."""
    share = torch.ones_like(state.points[..., :1])
    for _ in range(n_steps):
        newton = -(state.inverse @ state.residual[..., None])[..., 0]
        length = newton.norm(dim=2, keepdim=True)
        step = newton * (share * (_MAX_STEP / length.clamp_min(_MAX_STEP)))
        points = state.points + step
        offset = search.field.deformation(points, search.condition, search.expression_code)
        residual = points + offset - observed
        inverse = _updated_inverse(state.inverse, step, residual - state.residual)
        better = residual.norm(dim=2, keepdim=True) < state.residual.norm(dim=2, keepdim=True)
        share = torch.where(better, (2 * share).clamp_max(1.0), (0.5 * share).clamp_min(_MIN_STEP_SHARE))
        state = _State(
            torch.where(better, points, state.points), torch.where(better, residual, state.residual), inverse
        )
    return state


def _updated_inverse(inverse: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """Apply Broyden's update ("good", Broyden 1965, eq. 2.11 in its inverse form) where it is safe."""
    predicted = (inverse @ change[..., None])[..., 0]
    row = (step[..., None, :] @ inverse)[..., 0, :]
    scale = (step * predicted).sum(dim=-1, keepdim=True)
    safe = scale.abs() > 0.1 * (step * step).sum(dim=-1, keepdim=True)
    factor = (step - predicted) / torch.where(safe, scale, torch.ones_like(scale))
    updated = inverse + factor[..., None] * row[..., None, :]
    return torch.where(safe[..., None], updated, inverse)


def _unfinished(state: _State, tolerance: float) -> Int[Tensor, "n_heads n_largest"]:
    """List the unfinished points of each head; heads with fewer of them get finished ones to fill up."""
    active = state.residual.norm(dim=2) > tolerance
    n_largest = int(active.sum(dim=1).max()) if active.numel() else 0
    return active.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :n_largest]


def _restarted(search: _Search, observed: Tensor, state: _State, n_steps: int) -> _State:
    """Search again for the points that were not found, from four corners of a tetrahedron around them."""
    ids = _unfinished(state, search.tolerance)
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
