"""The regular grid that a surface is extracted on: where its corners are, and numbers that name them."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Box:
    """An axis-aligned box."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]


HEAD_BOX = Box((-0.55, -0.5, -0.95), (0.55, 0.75, 0.4))
"""Where NPHM looks for a head, in canonical units."""


@dataclass(frozen=True)
class Grid:
    """Cubic cells from the low corner of a box on; a cell is named by its lowest corner."""

    low: tuple[float, float, float]
    step: float
    """Edge of a cell."""
    n_cells: tuple[int, int, int]
    """Cells along each axis, enough to cover the box."""
    n_corners: tuple[int, int, int]
    """Corners along each axis that have a number: more than the cells need, as coarse cells may stand out."""

    @classmethod
    def over(cls, box: Box, resolution: int, stride: int) -> "Grid":
        """Give the grid with `resolution` cells along the longest side; coarse cells have `stride` cells a side."""
        sides = [high - low for low, high in zip(box.low, box.high, strict=True)]
        if resolution < 1 or not all(0 < side < float("inf") for side in sides):
            raise ValueError(f"expected a box with sides above 0 and at least 1 cell, got {box} and {resolution}")
        step = max(sides) / resolution
        # Less than a thousandth of a cell beyond the last one is rounding.
        n_x, n_y, n_z = (max(1, -int(-(side / step - 1e-3) // 1)) for side in sides)
        a, b, c = (-(-n // stride) * stride + 1 for n in (n_x, n_y, n_z))
        return cls(box.low, step, (n_x, n_y, n_z), (a, b, c))

    def key(self, corner: Int[Tensor, "*n 3"]) -> Int[Tensor, "*n"]:
        """Number corners, the last axis fastest."""
        return (corner[..., 0] * self.n_corners[1] + corner[..., 1]) * self.n_corners[2] + corner[..., 2]

    def corner(self, key: Int[Tensor, "*n"]) -> Int[Tensor, "*n 3"]:
        """Give the corner of a number."""
        n_yz = self.n_corners[1] * self.n_corners[2]
        return torch.stack([key // n_yz, key % n_yz // self.n_corners[2], key % self.n_corners[2]], dim=-1)

    def has_cell(self, corner: Int[Tensor, "*n 3"]) -> Tensor:
        """Mark the corners that are the lowest of a cell inside the box."""
        return ((corner >= 0) & (corner < constant(self.n_cells, corner.dtype, corner.device))).all(dim=-1)

    def place(self, corner: Tensor) -> Float[Tensor, "*n 3"]:
        """Give the place of corners, or of points counted in cells, in float64."""
        return corner.double() * self.step + constant(self.low, torch.float64, corner.device)


@lru_cache(maxsize=256)
def constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Give numbers on a device, which are copied there once: a copy waits for all that the device has to do."""
    return torch.tensor(values, dtype=dtype, device=device)
