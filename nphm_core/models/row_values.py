"""Values of stacked networks on a CPU, in pieces that stay in its caches; nothing is kept for slopes.

The plain operations write every layer of all rows to memory and read it again. Here some rows go through all layers
before the next ones, and softplus is one pass in place. Same products, same order of sums: results differ by rounding.
Pieces are shared out among as many threads as PyTorch has; whichever takes a piece gives the same numbers.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor

from nphm_core.models.networks import SKIP_SCALE, FoldedCodes, RowGroups, StackedNetworks

PIECE_ROWS = 1024
"""Rows that go through the layers together: two layers of 200 numbers fit a megabyte and a half."""

_BETA = np.float32(100.0)
_FLAT = np.float32(17.0)
"""Beyond it softplus is the identity or zero in float32."""


def row_values(
    networks: StackedNetworks, points: Float[Tensor, "n_rows n_point"], codes: FoldedCodes, groups: RowGroups
) -> Float[Tensor, "n_rows n_out"]:
    """Evaluate all rows, on a CPU, in float32, without slopes; rows must not lie in blocks."""
    out = points.new_empty(len(points), networks.n_out)
    width = max(len(weight[0]) for weight in networks.weights) + networks.n_point

    @torch.no_grad()
    def work(share: list[tuple[int, slice]]) -> None:
        torch.set_num_threads(1)
        first, second = (points.new_empty(PIECE_ROWS * width) for _ in range(2))
        for network, piece in share:
            rows_codes = _of_rows(codes, groups, piece, len(points))
            _piece(networks, network, points[piece], rows_codes, out[piece], first, second)

    _share_out(work, _pieces(groups))
    return out


def _pieces(groups: RowGroups) -> list[tuple[int, slice]]:
    """Cut each network's rows; give network and rows of each piece."""
    return [
        (network, slice(row, min(row + PIECE_ROWS, end)))
        for network, (start, end) in enumerate(pairwise(groups.starts))
        for row in range(start, end, PIECE_ROWS)
    ]


def _share_out(work: Callable[[list[tuple[int, slice]]], None], pieces: list[tuple[int, slice]]) -> None:
    """Do the pieces in as many threads as PyTorch has, in each of which it has one only.

    Threads of one small product wait for each other longer than the product takes, most of all on a busy machine.
    """
    n_threads = torch.get_num_threads()
    try:
        if min(n_threads, len(pieces)) < 2:
            work(pieces)
            return
        torch.set_num_threads(1)
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(work, [pieces[k::n_threads] for k in range(n_threads)]))
    finally:
        torch.set_num_threads(n_threads)


def _of_rows(codes: FoldedCodes, groups: RowGroups, piece: slice, n_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give both tables of what codes add, and each row's place in them."""
    if groups.condition is not None:
        return codes.first, codes.skip, groups.condition[piece]
    per_code = n_rows // len(codes.first)
    return codes.first, codes.skip, torch.arange(piece.start, piece.stop) // per_code


def _piece(
    networks: StackedNetworks,
    network: int,
    points: Tensor,
    codes: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    first: Tensor,
    second: Tensor,
) -> None:
    n, n_point, skip = len(points), networks.n_point, networks.skip
    condition = codes[2].numpy()
    a, spare = points, (first, second)
    for layer in range(networks.n_layers):
        weight, bias = networks.weights[layer][network], networks.biases[layer][network]
        if layer == networks.n_layers - 1:
            torch.addmm(bias, a, weight.t(), out=out)
            return
        n_out = len(weight)
        wide = n_out + n_point if layer + 1 == skip else n_out
        store = spare[layer % 2][: n * wide].view(n, wide)
        if layer in (0, skip):
            weight = weight[:, : a.shape[1]]
            torch.mm(a, weight.t() if layer == 0 else weight.t() * SKIP_SCALE, out=store)
            table = codes[0 if layer == 0 else 1]
            _softplus_of_codes(store.numpy(), table.numpy(), condition)
        else:
            torch.addmm(bias, a, weight.t(), out=store[:, :n_out])
            _softplus(store.numpy(), n_out)
        if wide > n_out:
            store[:, n_out:] = points
        a = store


@njit(cache=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy", inline="always")
def _softplus_one(z):
    # log(1 + exp(-|t|)) = log1p(e): e by its power of two and a polynomial, the logarithm by a series in e / (2 + e),
    # which is at most a third: to a millionth, and a hundredth of that in the result.
    t = min(abs(z) * _BETA, _FLAT)
    turns = t * np.float32(-1.4426950408889634)
    whole = np.floor(turns)
    f = (turns - whole) * np.float32(0.6931471805599453)
    e = np.float32(1 / 720)
    e = e * f + np.float32(1 / 120)
    e = e * f + np.float32(1 / 24)
    e = e * f + np.float32(1 / 6)
    e = e * f + np.float32(0.5)
    e = e * f + np.float32(1.0)
    e = e * f + np.float32(1.0)
    power = np.int32(np.int32(whole) + np.int32(127)) << np.int32(23)
    e = e * np.int32(power).view(np.float32)
    s = e / (np.float32(2.0) + e)
    q = s * s
    series = np.float32(2 / 11)
    series = series * q + np.float32(2 / 9)
    series = series * q + np.float32(2 / 7)
    series = series * q + np.float32(2 / 5)
    series = series * q + np.float32(2 / 3)
    series = series * q + np.float32(2.0)
    return max(z, np.float32(0.0)) + s * series * np.float32(0.01)


@njit(cache=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy", nogil=True)
def _softplus(rows, n_columns):
    for i in range(rows.shape[0]):
        for j in range(n_columns):
            rows[i, j] = _softplus_one(rows[i, j])


@njit(cache=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy", nogil=True)
def _softplus_of_codes(rows, table, condition):
    for i in range(rows.shape[0]):
        bias = table[condition[i]]
        for j in range(rows.shape[1]):
            rows[i, j] = _softplus_one(rows[i, j] + bias[j])
