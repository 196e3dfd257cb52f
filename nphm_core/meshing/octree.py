"""Values of a field on the cells of a fine grid that its zero set runs through, from few evaluations.

A coarse grid is evaluated whole. A cell is refined if its corners differ in sign, or if one of them is nearer to zero
than `safety` times half the cell's diagonal: with a slope of at most `safety` no zero can hide in the others. On the
finest grid the surface is followed over the cells' faces into cells that were left out, so whatever piece was met comes
out whole, as on the dense grid. A piece is missed only if it lies in coarse cells without a change of sign where the
field is steeper than `safety`: then a finer coarse grid, or more safety, finds it. No corner is evaluated twice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nphm_core.meshing.cube_cases import CORNERS
from nphm_core.meshing.grid import Grid

Field = Callable[[Tensor], Tensor]
"""Signed distances (n), negative inside, of points (n, 3) in float32 on the device of the points."""


@dataclass(frozen=True)
class Evaluated:
    """Corners with known values."""

    key: Int[Tensor, " n"]
    """Ascending."""
    value: Float[Tensor, " n"]

    @classmethod
    def nothing(cls, device: torch.device) -> "Evaluated":
        """Give no corner."""
        return cls(torch.zeros(0, dtype=torch.long, device=device), torch.zeros(0, device=device))


@dataclass(frozen=True)
class CrossedCells:
    """Cells of the finest grid whose corners differ in sign."""

    corner: Int[Tensor, "n_cells 3"]
    """Lowest corner of each, in the order of its number."""
    value: Float[Tensor, "n_cells 8"]
    """At the corners, in the order of CORNERS."""
    n_evaluations: int


def crossed_cells(
    field: Field, grid: Grid, *, stride: int, safety: float, points_per_call: int, device: torch.device
) -> CrossedCells:
    """Find the cells that the zero set crosses; `stride`, a power of two, is the edge of the coarse cells.

    A stride of 1 is the dense grid. Raises ValueError where the field is not finite.
    """
    sample = _Sampler(field, grid, points_per_call)
    known = Evaluated.nothing(device)
    cells = _coarse_cells(grid, stride, device)
    while True:
        keys, value, known = _corner_values(cells, stride, grid, known, sample)
        if stride == 1:
            break
        half_diagonal = 0.5 * math.sqrt(3) * stride * grid.step
        kept = _changes_sign(value) | (value.abs().amin(dim=1) < safety * half_diagonal)
        stride //= 2
        offsets = stride * torch.as_tensor(CORNERS, device=device)
        cells = (cells[kept][:, None] + offsets).flatten(0, 1)
        cells = cells[grid.has_cell(cells)]
    cells, value = _followed(cells, keys[:, 0], value, known, grid, sample)
    crossed = _changes_sign(value)
    order = torch.argsort(grid.key(cells[crossed]))
    return CrossedCells(cells[crossed][order], value[crossed][order], sample.n_evaluations)


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


def _changes_sign(value: Float[Tensor, "n_cells 8"]) -> Bool[Tensor, " n_cells"]:
    inside = value < 0
    return inside.any(dim=1) & ~inside.all(dim=1)


def _corner_values(
    cells: Int[Tensor, "n_cells 3"], stride: int, grid: Grid, known: Evaluated, sample: _Sampler
) -> tuple[Int[Tensor, "n_cells 8"], Float[Tensor, "n_cells 8"], Evaluated]:
    """Give the numbers and values of the cells' corners, and all corners that are known then."""
    keys = grid.key(cells[:, None] + stride * torch.as_tensor(CORNERS, device=cells.device))
    unique, where = torch.unique(keys, return_inverse=True)
    new = unique[~_is_among(unique, known.key)]
    key, order = torch.sort(torch.cat([known.key, new]))
    known = Evaluated(key, torch.cat([known.value, sample(new)])[order])
    value = known.value[torch.searchsorted(known.key, unique)]
    return keys, value[where], known


def _is_among(key: Int[Tensor, " n"], ascending: Int[Tensor, " m"]) -> Bool[Tensor, " n"]:
    if len(ascending) == 0:
        return torch.zeros_like(key, dtype=torch.bool)
    at = torch.searchsorted(ascending, key).clamp_max(len(ascending) - 1)
    return ascending[at] == key


def _followed(
    cells: Int[Tensor, "n_cells 3"],
    cell_keys: Int[Tensor, " n_cells"],
    value: Float[Tensor, "n_cells 8"],
    known: Evaluated,
    grid: Grid,
    sample: _Sampler,
) -> tuple[Int[Tensor, "n_more 3"], Float[Tensor, "n_more 8"]]:
    """Add the cells that the surface enters through a face of a cell at hand, until there are none."""
    all_keys = torch.sort(cell_keys).values
    all_cells, all_values, fresh, fresh_value = [cells], [value], cells, value
    while True:
        entered = torch.unique(_entered(fresh, fresh_value, grid))
        fresh = grid.corner(entered[~_is_among(entered, all_keys)])
        if len(fresh) == 0:
            return torch.cat(all_cells), torch.cat(all_values)
        keys, fresh_value, known = _corner_values(fresh, 1, grid, known, sample)
        all_keys = torch.sort(torch.cat([all_keys, keys[:, 0]])).values
        all_cells.append(fresh)
        all_values.append(fresh_value)


def _entered(cells: Int[Tensor, "n_cells 3"], value: Float[Tensor, "n_cells 8"], grid: Grid) -> Int[Tensor, " n"]:
    crossed = _changes_sign(value)
    cells, inside = cells[crossed], value[crossed] < 0
    out = []
    for axis in range(3):
        for side in (0, 1):
            face = inside[:, torch.as_tensor(CORNERS[:, axis] == side, device=cells.device)]
            neighbour = cells[face.any(dim=1) & ~face.all(dim=1)].clone()
            neighbour[:, axis] += 2 * side - 1
            out.append(grid.key(neighbour[grid.has_cell(neighbour)]))
    return torch.cat(out)
