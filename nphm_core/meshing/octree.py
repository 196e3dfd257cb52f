"""Values of a field on the cells of a fine grid that its zero set runs through, from few evaluations.

A coarse grid is evaluated whole. With a slope of at most `safety`, a value says of every corner near it on which side
it lies, and how far from zero at least: only corners that no neighbour decides are evaluated. A cell is refined if its
corners differ in sign, or if one of them may be nearer to zero than `safety` times half the cell's diagonal: then no
zero can hide in the others. On the finest grid all ends of crossed edges are evaluated, and the surface is followed
over the cells' faces into cells that were left out, so whatever piece was met comes out whole, as on the dense grid. A
piece is missed only where the field is steeper than `safety`: then a finer coarse grid, or more safety, finds it. No
corner is evaluated twice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nphm_core.meshing.cube_cases import CORNERS, EDGES
from nphm_core.meshing.grid import Grid, constant

Field = Callable[[Tensor], Tensor]
"""Signed distances (n), negative inside, of points (n, 3) in float32 on the device of the points."""

_BOUNDED, _EXACT = 1, 2

_CHILDREN = tuple((i, j, k) for i in range(3) for j in range(3) for k in range(3))
"""Corners of a cell's eight children, in half the cell's edge."""

_FACES = tuple((axis, side) for axis in range(3) for side in (0, 1))
_FACE_CORNERS = tuple(tuple(c for c in range(8) if CORNERS[c][axis] == side) for axis, side in _FACES)
_FACE_STEPS = tuple(tuple((2 * side - 1) * (k == axis) for k in range(3)) for axis, side in _FACES)
"""To the neighbour behind each face."""


class Known:
    """What is known of the corners of a grid: tables over all of them, so that nothing has to be sorted or searched."""

    def __init__(self, grid: Grid, sample: "_Sampler", device: torch.device) -> None:
        """Know nothing; ten bytes a corner."""
        n = math.prod(grid.n_corners)
        self._grid, self._sample, self.device = grid, sample, device
        self._value = torch.empty(n, device=device)
        self._state = torch.zeros(n, dtype=torch.uint8, device=device)
        self._number = torch.empty(n, dtype=torch.int32, device=device)
        self._mark = torch.zeros(n, dtype=torch.bool, device=device)

    def at(self, key: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Give the values of corners that are known; of one that is not exact, the right sign, and at most as far."""
        return self._value[key]

    def has(self, key: Int[Tensor, "*n"], *, exactly: bool = False) -> Bool[Tensor, "*n"]:
        """Tell which corners are known."""
        return self._state[key] >= (_EXACT if exactly else _BOUNDED)

    def bound(self, key: Int[Tensor, " n"], value: Float[Tensor, " n"]) -> None:
        """Note corners by sign and least distance from zero."""
        self._value[key], self._state[key] = value, _BOUNDED

    def evaluate(self, key: Int[Tensor, " n"]) -> None:
        """Evaluate corners, each named once."""
        self._value[key], self._state[key] = self._sample(key), _EXACT

    def confirm(self, key: Int[Tensor, " n"]) -> bool:
        """Evaluate corners, each named once, and tell whether the sign of each was known, and right."""
        if len(key) == 0:
            return True
        before, was_known = self.at(key), self.has(key)
        self.evaluate(key)
        return bool((was_known & ((before < 0) == (self.at(key) < 0))).all())

    def distinct(self, key: Int[Tensor, " n"]) -> tuple[Int[Tensor, " m"], Int[Tensor, " n"]]:
        """Give the corners that are named, ascending, and each name's place among them."""
        self._mark[key] = True
        found = self._mark.nonzero()[:, 0]
        self._mark[found] = False
        self._number[found] = torch.arange(len(found), dtype=torch.int32, device=self.device)
        return found, self._number[key].long()


@dataclass(frozen=True)
class CrossedCells:
    """Cells of the finest grid whose corners differ in sign."""

    corner: Int[Tensor, "n_cells 3"]
    """Lowest corner of each, in the order of its number."""
    value: Float[Tensor, "n_cells 8"]
    """At the corners, in the order of CORNERS; exact at both ends of a crossed edge, elsewhere of the right sign."""
    n_evaluations: int


def crossed_cells(
    field: Field, grid: Grid, *, stride: int, safety: float, points_per_call: int, device: torch.device
) -> CrossedCells:
    """Find the cells that the zero set crosses; `stride`, a power of two, is the edge of the coarse cells.

    A stride of 1 is the dense grid. Raises ValueError where the field is not finite.
    """
    sample = _Sampler(field, grid, points_per_call)
    known = Known(grid, sample, device)
    cells = _coarse_cells(grid, stride, device)
    known.evaluate(known.distinct(_corner_keys(cells, stride, grid).flatten())[0])
    while stride > 1:
        value = known.at(_corner_keys(cells, stride, grid))
        half_diagonal = 0.5 * math.sqrt(3) * stride * grid.step
        kept = (_changes_sign(value) | (value.abs().amin(dim=1) < safety * half_diagonal)).nonzero()[:, 0]
        cells, value = cells[kept], value[kept]
        stride //= 2
        inner = grid.key(cells)[:, None] + stride * grid.key(constant(_CHILDREN, torch.long, device))
        _refine(inner, value, stride * grid.step * safety, known)
        if stride == 1:
            # Of the others no child is crossed.
            cells = cells[_changes_sign(known.at(inner))]
        cells = (cells[:, None] + stride * constant(CORNERS, torch.long, device)).flatten(0, 1)
        cells = cells[grid.has_cell(cells)]
    crossed, value = _followed(cells, grid, known)
    return CrossedCells(crossed, value, sample.n_evaluations)


class _Sampler:
    """Evaluates the field at corners, in calls of limited size, and counts."""

    def __init__(self, field: Field, grid: Grid, points_per_call: int) -> None:
        self._field, self._grid, self._points_per_call = field, grid, points_per_call
        self.n_evaluations = 0

    @torch.no_grad()
    def __call__(self, key: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        parts = [self._field(self._grid.place(self._grid.corner(k)).float()) for k in key.split(self._points_per_call)]
        value = torch.cat(parts).float() if len(key) else torch.zeros(0, device=key.device)
        self.n_evaluations += len(key)
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"the field is not finite at {int((~torch.isfinite(value)).sum())} of {len(key)} points")
        return value


def _coarse_cells(grid: Grid, stride: int, device: torch.device) -> Int[Tensor, "n_cells 3"]:
    axes = [torch.arange(0, n - 1, stride, device=device) for n in grid.n_corners]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)


def _corner_keys(cells: Int[Tensor, "n_cells 3"], stride: int, grid: Grid) -> Int[Tensor, "n_cells 8"]:
    return grid.key(cells)[:, None] + stride * grid.key(constant(CORNERS, torch.long, cells.device))


def _changes_sign(value: Float[Tensor, "n_cells n_corners"]) -> Bool[Tensor, " n_cells"]:
    return _is_mixed(value < 0)


def _is_mixed(inside: Bool[Tensor, "*n n_corners"]) -> Bool[Tensor, "*n"]:
    return inside.any(dim=-1) & ~inside.all(dim=-1)


def _refine(inner: Int[Tensor, "n_cells 27"], value: Float[Tensor, "n_cells 8"], slope: float, known: Known) -> None:
    """Know all corners `inner` of the cells' children: from what the cells' corners say, or exactly.

    `slope` is what a value changes by at most over the edge of a child.
    """
    outside, inside = _room(value, slope)
    key, where = known.distinct(inner.flatten())
    # How far a corner lies outside or inside at least; every cell around it may know.
    most = [
        torch.full((len(key),), -torch.inf, device=key.device).scatter_reduce_(0, where, room.flatten(), "amax")
        for room in (outside, inside)
    ]
    is_new = (~known.has(key)).nonzero()[:, 0]
    key, most = key[is_new], [room[is_new] for room in most]
    # Both ways, or neither: it has to be evaluated.
    is_decided = (most[0] > 0) != (most[1] > 0)
    known.evaluate(key[~is_decided])
    decided = is_decided.nonzero()[:, 0]
    known.bound(key[decided], torch.where(most[0] > 0, most[0], -most[1])[decided])


def _room(value: Float[Tensor, "n_cells 8"], slope: float) -> tuple[Tensor, Tensor]:
    """Give how far outside and how far inside the children's corners lie at least (n_cells, 27); negative: unknown."""
    children, corners = (constant(table, torch.long, value.device) for table in (_CHILDREN, CORNERS))
    away = slope * (children[:, None] - 2 * corners).float().norm(dim=2)
    if value.is_cuda:
        # Eight times the memory, and a tenth of the launches, which cost more here than what they do.
        return (value[:, None] - away).amax(dim=2), (-value[:, None] - away).amax(dim=2)
    outside, inside = value[:, :1] - away[:, 0], -value[:, :1] - away[:, 0]
    for corner in range(1, 8):
        torch.maximum(outside, value[:, corner, None] - away[:, corner], out=outside)
        torch.maximum(inside, -value[:, corner, None] - away[:, corner], out=inside)
    return outside, inside


def _followed(
    cells: Int[Tensor, "n_cells 3"], grid: Grid, known: Known
) -> tuple[Int[Tensor, "n_crossed 3"], Float[Tensor, "n_crossed 8"]]:
    """Give the crossed cells in order, with those that the surface enters through a face of a cell at hand."""
    seen = torch.sort(grid.key(cells)).values
    ends = constant(EDGES, torch.long, cells.device)
    offsets = grid.key(constant(CORNERS, torch.long, cells.device))
    while True:
        corners = seen[:, None] + offsets
        inside = known.at(corners) < 0
        is_crossed = _is_mixed(inside).nonzero()[:, 0]
        corners, inside = corners[is_crossed], inside[is_crossed]
        crossed = grid.corner(seen[is_crossed])
        cut = (inside[:, ends[:, 0]] != inside[:, ends[:, 1]]).flatten().nonzero()[:, 0]
        entered = known.distinct(_entered(crossed, inside, grid))[0]
        entered = entered[~_is_among(entered, seen)]
        needed = [corners[:, ends[:, k]].flatten()[cut] for k in (0, 1)]
        if len(entered):
            new = (entered[:, None] + offsets).flatten()
            needed.append(new[~known.has(new)])
        key = known.distinct(torch.cat(needed))[0]
        key = key[~known.has(key, exactly=True)]
        if known.confirm(key) and len(entered) == 0:
            return crossed, known.at(corners)
        # A sign that was wrong has shown, or there are new cells: all at hand are looked at again.
        if len(entered):
            seen = torch.sort(torch.cat([seen, entered])).values


def _is_among(key: Int[Tensor, " n"], ascending: Int[Tensor, " m"]) -> Bool[Tensor, " n"]:
    if len(ascending) == 0:
        return torch.zeros_like(key, dtype=torch.bool)
    at = torch.searchsorted(ascending, key).clamp_max(len(ascending) - 1)
    return ascending[at] == key


def _entered(cells: Int[Tensor, "n_cells 3"], inside: Bool[Tensor, "n_cells 8"], grid: Grid) -> Int[Tensor, " n"]:
    """Number the cells, some of them more than once, behind faces whose corners differ in sign."""
    face = inside[:, constant(_FACE_CORNERS, torch.long, cells.device)]
    cell, side = _is_mixed(face).nonzero(as_tuple=True)
    neighbour = cells[cell] + constant(_FACE_STEPS, torch.long, cells.device)[side]
    return grid.key(neighbour[grid.has_cell(neighbour)])
