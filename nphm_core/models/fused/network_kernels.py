"""Kernels of one wide network that sees every point: layers with their softplus, and the way back through them.

A program makes a tile of ROWS rows and COLUMNS columns of a layer's output. Codes are biases of each head's rows, which
lie together. Activations are kept in half precision, from which the slope of softplus is 1 - exp(-beta a).
"""

import triton
import triton.language as tl

from nphm_core.models.fused.layer_kernels import decay, softplus


@triton.jit
def _place(points, row, n_rows):
    inside = row < n_rows
    x = tl.load(points + 3 * row, mask=inside, other=0.0)[:, None]
    y = tl.load(points + 3 * row + 1, mask=inside, other=0.0)[:, None]
    return x, y, tl.load(points + 3 * row + 2, mask=inside, other=0.0)[:, None]


@triton.jit
def _by_place(points, weight, row, column, n_rows, N: tl.constexpr):
    """Multiply places with a weight (3, N), with all their bits."""
    x, y, z = _place(points, row, n_rows)
    wx = tl.load(weight + column, mask=column < N, other=0.0)[None, :]
    wy = tl.load(weight + N + column, mask=column < N, other=0.0)[None, :]
    return x * wx + y * wy + z * tl.load(weight + 2 * N + column, mask=column < N, other=0.0)[None, :]


@triton.jit
def _head_bias(codes, row, column, n_rows, per_head, N: tl.constexpr):
    at = (row // per_head)[:, None] * N + column[None, :]
    return tl.load(codes + at, mask=(row < n_rows)[:, None] & (column < N)[None, :], other=0.0)


@triton.jit
def enter_kernel(
    points, weight, codes, out, n_rows, per_head, N: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """First layer."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    pre = _by_place(points, weight, row, column, n_rows, N) + _head_bias(codes, row, column, n_rows, per_head, N)
    fits = (row < n_rows)[:, None] & (column < N)[None, :]
    tl.store(out + row[:, None] * N + column[None, :], softplus(pre).to(tl.float16), mask=fits)


@triton.jit
def linear_kernel(
    rows_in,
    weight,
    bias,
    points,
    by_place,
    out,
    n_rows,
    per_head,
    SKIP: tl.constexpr,
    APPEND: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BK: tl.constexpr,
):
    """A layer of N columns, stored in rows of WIDTH.

    With SKIP the bias is each head's, and places come in; with APPEND they are put behind the columns.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = row < n_rows
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k in range(0, K, BK):
        c = k + tl.arange(0, BK)
        x = tl.load(rows_in + row[:, None] * K + c[None, :], mask=inside[:, None] & (c[None, :] < K), other=0.0)
        sums = tl.dot(x, tl.load(weight + c[:, None] * STRIDE + column[None, :]), sums)
    if SKIP:
        sums += _by_place(points, by_place, row, column, n_rows, N)
        sums += _head_bias(bias, row, column, n_rows, per_head, N)
    else:
        sums += tl.load(bias + column, mask=column < N, other=0.0)[None, :]
    a = softplus(sums)
    if APPEND:
        x, y, z = _place(points, row, n_rows)
        c = column[None, :]
        last = tl.where(c == N, x, tl.where(c == N + 1, y, tl.where(c == N + 2, z, 0.0)))
        a = tl.where(c < N, a, last)
    fits = inside[:, None] & (column < WIDTH)[None, :]
    tl.store(out + row[:, None] * WIDTH + column[None, :], a.to(tl.float16), mask=fits)


@triton.jit
def leave_kernel(
    rows_in,
    weight,
    bias,
    out,
    n_rows,
    K: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    BK: tl.constexpr,
):
    """Last layer, of at most 16 columns."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, 16)
    inside = row < n_rows
    sums = tl.zeros((ROWS, 16), dtype=tl.float32)
    for k in range(0, K, BK):
        c = k + tl.arange(0, BK)
        x = tl.load(rows_in + row[:, None] * K + c[None, :], mask=inside[:, None] & (c[None, :] < K), other=0.0)
        sums = tl.dot(x, tl.load(weight + c[:, None] * 16 + column[None, :]), sums)
    sums += tl.load(bias + column, mask=column < N, other=0.0)[None, :]
    tl.store(out + row[:, None] * N + column[None, :], sums, mask=inside[:, None] & (column < N)[None, :])


@triton.jit
def return_kernel(
    by_out,
    scale,
    weight,
    a,
    z,
    sums,
    n_rows,
    N_OUT: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """From the slopes by the few outputs, times a scale, to those before the last softplus, and their sums."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    fits = (row < n_rows)[:, None] & (column < N)[None, :]
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k in tl.static_range(N_OUT):
        slope = tl.load(by_out + row * N_OUT + k, mask=row < n_rows, other=0.0)
        total += slope[:, None] * tl.load(weight + k * N + column, mask=column < N, other=0.0)[None, :]
    at = row[:, None] * N + column[None, :]
    total = total * tl.load(scale) * (1.0 - decay(tl.load(a + at, mask=fits, other=0.0)))
    tl.store(z + at, total.to(tl.float16), mask=fits)
    tl.store(sums + tl.program_id(0) * N + column, tl.sum(total, axis=0), mask=column < N)


@triton.jit
def back_kernel(
    by_out,
    weight,
    a,
    z,
    sums,
    n_rows,
    K: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BK: tl.constexpr,
):
    """From the slopes before a layer's softplus to those before the layer below, N of WIDTH columns, and their sums."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = row < n_rows
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k in range(0, K, BK):
        c = k + tl.arange(0, BK)
        x = tl.load(by_out + row[:, None] * K + c[None, :], mask=inside[:, None] & (c[None, :] < K), other=0.0)
        total = tl.dot(x, tl.load(weight + c[:, None] * STRIDE + column[None, :]), total)
    fits = inside[:, None] & (column < WIDTH)[None, :]
    at = row[:, None] * WIDTH + column[None, :]
    slope = 1.0 - decay(tl.load(a + at, mask=fits, other=0.0))
    total = tl.where(inside[:, None] & (column < N)[None, :], total * slope, 0.0)
    tl.store(z + at, total.to(tl.float16), mask=fits)
    tl.store(sums + tl.program_id(0) * WIDTH + column, tl.sum(total, axis=0), mask=column < WIDTH)
