"""Which rows the pairs of points and members have: tiles of one condition each, in the order of the networks.

A condition is a member of a head. Its rows, in the points' order, fill whole tiles; what fills up is evaluated at the
origin and not used. Nothing is read back from the device but, without a capacity, the number of tiles.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nphm_core.models.fused.member_kernels import choose_kernel, scatter_kernel

POINTS = 32
"""Points of a block."""
SLOTS = 64
"""The 40 members, filled up to a power of two."""
CHUNK_TILES = 16
"""Tiles whose shares of a weight's gradient are summed at once, at most."""


@dataclass(frozen=True)
class Blend:
    """Numbers of the blend."""

    variance: float
    background_distance_sq: float
    min_weight: float


@dataclass(frozen=True)
class Layout:
    """Rows of a call."""

    rows: int
    """Rows of a tile."""
    max_tiles: int
    n_blocks: int
    """Blocks of points of each head."""
    bits: Int[Tensor, " n_all_points"]
    """Bit m of a point says that member m is used."""
    base: Int[Tensor, "n_heads n_members n_blocks"]
    """Row of a block's first pair with each member."""
    place: Float[Tensor, "3 n_rows"]
    """Each row's place as its member sees it."""
    tile_condition: Int[Tensor, " max_tiles"]
    tile_network: Int[Tensor, " max_tiles"]
    n_tiles: Int[Tensor, " 1"]
    needed: Int[Tensor, " 1"]
    """Tiles of all rows. May exceed `max_tiles`: then rows are missing, and the result is wrong."""
    starts: Int[Tensor, " n_conditions_and_1"]
    """First tile of each condition, in the order of `order`."""
    order: Int[Tensor, " n_conditions"]
    """Conditions in the order of their rows."""
    network_starts: Int[Tensor, " n_networks_and_1"]
    """Place in `order` of each network's first condition."""

    @property
    def n_rows(self) -> int:
        """Rows that there is room for."""
        return self.rows * self.max_tiles


@dataclass(frozen=True)
class Chunks:
    """Tiles of a network that one program sums over."""

    network: Int[Tensor, " max_chunks"]
    first: Int[Tensor, " max_chunks"]
    end: Int[Tensor, " max_chunks"]
    starts: Int[Tensor, " n_networks_and_1"]
    """First chunk of each network."""
    n_chunks: Int[Tensor, " 1"]


@torch.no_grad()
def lay_out(
    points: Float[Tensor, "n_heads n_points 3"],
    anchors: Float[Tensor, "n_heads n_anchors 3"],
    flips: Float[Tensor, " n_members"],
    networks: tuple[int, ...],
    blend: Blend,
    rows: int,
    max_tiles: int | None = None,
) -> Layout:
    """Choose members and give every pair its row; with `max_tiles` without waiting for the device."""
    n_heads, n_points, n_anchors = len(points), points.shape[1], anchors.shape[1]
    n_members = n_anchors + 1
    n_blocks = -(-n_points // POINTS)
    bits = torch.empty(n_heads * n_points, dtype=torch.int64, device=points.device)
    counts = torch.empty(n_heads, n_members, n_blocks, dtype=torch.int32, device=points.device)
    sizes = {"POINTS": POINTS, "MEMBERS": SLOTS, "ANCHORS": n_anchors}
    grid = (n_heads * n_blocks,)
    numbers = (blend.min_weight, blend.variance, blend.background_distance_sq)
    choose_kernel[grid](points, anchors, bits, counts, n_points, n_blocks, *numbers, **sizes)
    order, network_starts, member_network = _order(points.device, networks, n_heads)
    upto = counts.cumsum(dim=2, dtype=torch.int32)
    tiles = ((upto[:, :, -1] + rows - 1) // rows).flatten()
    starts = _starts(tiles[order])
    first_row = torch.empty_like(tiles).scatter_(0, order, (starts[:-1] * rows).to(tiles.dtype))
    base = first_row.view(n_heads, n_members, 1) + upto - counts
    needed = starts[-1:]
    if max_tiles is None:
        max_tiles = int(needed)
    place = torch.zeros(3, rows * max_tiles, device=points.device)
    scatter_kernel[grid](points, anchors, flips, bits, base, place, n_points, n_blocks, rows * max_tiles, **sizes)
    of_tile = _segment_of(starts, max_tiles)
    condition = order[of_tile]
    return Layout(
        rows=rows,
        max_tiles=max_tiles,
        n_blocks=n_blocks,
        bits=bits,
        base=base,
        place=place,
        tile_condition=condition.to(torch.int32),
        tile_network=member_network[condition % n_members].to(torch.int32),
        n_tiles=needed.clamp_max(max_tiles).to(torch.int32),
        needed=needed,
        starts=starts.clamp_max(max_tiles).to(torch.int32),
        order=order,
        network_starts=network_starts,
    )


@torch.no_grad()
def chunks(layout: Layout) -> Chunks:
    """Divide each network's tiles."""
    first_tile = layout.starts[layout.network_starts.long()].long()
    n_each = (first_tile.diff() + CHUNK_TILES - 1) // CHUNK_TILES
    starts = _starts(n_each)
    max_chunks = layout.max_tiles // CHUNK_TILES + len(n_each)
    network = _segment_of(starts, max_chunks)
    inner = torch.arange(max_chunks, device=starts.device) - starts[network]
    first = first_tile[network] + inner * CHUNK_TILES
    end = torch.minimum(first + CHUNK_TILES, first_tile[network + 1])
    numbers = (part.to(torch.int32) for part in (network, first, end, starts, starts[-1:]))
    return Chunks(*numbers)


def _starts(counts: Int[Tensor, " n"]) -> Int[Tensor, " n_and_1"]:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def _segment_of(starts: Int[Tensor, " n_and_1"], n: int) -> Int[Tensor, " n"]:
    """Give the segment of each of the first `n` places; the last one beyond the end."""
    place = torch.arange(n, device=starts.device)
    return torch.searchsorted(starts[1:].contiguous(), place, right=True).clamp_max(len(starts) - 2)


@cache
def _order(device: torch.device, networks: tuple[int, ...], n_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give the conditions in order, each network's first, and the network of each member; `networks` names it."""
    member = torch.tensor(networks)
    order = member.repeat(n_heads).argsort(stable=True)
    starts = _starts(torch.bincount(member) * n_heads).to(torch.int32)
    return order.to(device), starts.to(device), member.to(device)
