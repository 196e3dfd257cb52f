"""Kernels of one wide network that sees every point: layers with their softplus, and the way back through them.

A tile is ROWS rows and COLUMNS columns of a layer's output; those of the same rows follow one another, so that what
they all read stays in the cache. Matrices are given by descriptors, from which the hardware copies whole tiles (since
the H100; compilers for older cards make pointers of them): beyond a matrix there are zeros, and nothing is stored.
Codes are biases of each head's rows, which lie together; a tile must not have rows of three heads. Activations are kept
in half precision, from which the slope of softplus is 1 - exp(-beta a). Weights lie as PyTorch has them, (outputs,
inputs). The input of the skip connection has its places behind all other columns, in front of which columns of zeros
fill up eight: in products with half precision it has none.
"""

import triton
import triton.language as tl

from nphm_core.models.fused.layer_kernels import decay, softplus

PLACE_COLUMNS = tl.constexpr(8)
N_MAXIMA = tl.constexpr(128)


@triton.jit
def _tile(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Give a program's first row and column, then all of them."""
    first_row, first_column = tl.program_id(1) * ROWS, tl.program_id(0) * COLUMNS
    return first_row, first_column, first_row + tl.arange(0, ROWS), first_column + tl.arange(0, COLUMNS)


@triton.jit
def _places(points, row, n_rows, WIDTH: tl.constexpr):
    """Load places, and zero up to WIDTH columns."""
    c = tl.arange(0, WIDTH)[None, :]
    return tl.load(points + 3 * row[:, None] + c, mask=(row < n_rows)[:, None] & (c < 3), other=0.0)


@triton.jit
def _by_place(points, weight, row, column, n_rows, N: tl.constexpr, STRIDE: tl.constexpr):
    """Multiply places with three columns of a weight, with all their bits."""
    inside = row < n_rows
    x = tl.load(points + 3 * row, mask=inside, other=0.0)[:, None]
    y = tl.load(points + 3 * row + 1, mask=inside, other=0.0)[:, None]
    z = tl.load(points + 3 * row + 2, mask=inside, other=0.0)[:, None]
    at = weight + column * STRIDE
    wx = tl.load(at, mask=column < N, other=0.0)[None, :]
    wy = tl.load(at + 1, mask=column < N, other=0.0)[None, :]
    return x * wx + y * wy + z * tl.load(at + 2, mask=column < N, other=0.0)[None, :]


@triton.jit
def _head_bias(codes, row, column, n_rows, per_head, N: tl.constexpr, ROWS: tl.constexpr):
    head = tl.program_id(1) * ROWS // per_head
    own = tl.load(codes + head * N + column, mask=column < N, other=0.0)[None, :]
    after = tl.minimum(head + 1, (n_rows - 1) // per_head)
    other = tl.load(codes + after * N + column, mask=column < N, other=0.0)[None, :]
    return tl.where((row < (head + 1) * per_head)[:, None], own, other)


@triton.jit
def _store_sums(
    sums,
    value,
    row,
    column,
    n_rows,
    per_head,
    n_slots,
    BY_HEADS: tl.constexpr,
    N: tl.constexpr,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Store the sums of a tile's rows in its slot, or those of each head's rows in the head's slot for this tile."""
    tile = tl.program_id(1)
    if BY_HEADS:
        head = tile * ROWS // per_head
        end = (head + 1) * per_head
        slot = head * n_slots + tile - head * per_head // ROWS
        own = tl.sum(tl.where((row < end)[:, None], value, 0.0), axis=0)
        tl.store(sums + slot * STRIDE + column, own, mask=column < N)
        if end < tl.minimum((tile + 1) * ROWS, n_rows):
            other = tl.sum(tl.where((row < end)[:, None], 0.0, value), axis=0)
            # The first slot of the next head.
            tl.store(sums + (head + 1) * n_slots * STRIDE + column, other, mask=column < N)
    else:
        tl.store(sums + tile * STRIDE + column, tl.sum(value, axis=0), mask=column < N)


@triton.jit
def _code_bias(
    codes,
    weight,
    bias,
    out,
    n_heads,
    scale,
    N: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    HEADS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BK: tl.constexpr,
):
    column, head = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS), tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    sums = tl.zeros((HEADS, COLUMNS), dtype=tl.float32)
    for k in range(0, K, BK):
        c = k + tl.arange(0, BK)
        fits = (head < n_heads)[:, None] & (c < K)[None, :]
        code = tl.load(codes + head[:, None] * K + c[None, :], mask=fits, other=0.0)
        fits = (c < K)[:, None] & (column < N)[None, :]
        w = tl.load(weight + column[None, :] * STRIDE + c[:, None], mask=fits, other=0.0)
        sums = tl.dot(code, w, sums)
    sums = sums * scale + tl.load(bias + column, mask=column < N, other=0.0)[None, :]
    fits = (head < n_heads)[:, None] & (column < N)[None, :]
    tl.store(out + head[:, None] * N + column[None, :], sums, mask=fits)


@triton.jit
def code_kernel(
    codes,
    first,
    first_bias,
    skip,
    skip_bias,
    out,
    n_heads,
    scale,
    N: tl.constexpr,
    K: tl.constexpr,
    FIRST_STRIDE: tl.constexpr,
    SKIP_STRIDE: tl.constexpr,
    HEADS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BK: tl.constexpr,
):
    """What codes add to the first layer (n_heads, N), biases included, and behind it to that of the skip connection.

    Both weights begin with their first column for codes; a program serves HEADS heads and COLUMNS columns.
    """
    if tl.program_id(2) == 0:
        _code_bias(codes, first, first_bias, out, n_heads, 1.0, N, K, FIRST_STRIDE, HEADS, COLUMNS, BK)
    else:
        _code_bias(codes, skip, skip_bias, out + n_heads * N, n_heads, scale, N, K, SKIP_STRIDE, HEADS, COLUMNS, BK)


@triton.jit
def enter_kernel(
    points,
    weight,
    codes,
    out,
    places,
    n_rows,
    per_head,
    N: tl.constexpr,
    STRIDE: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """First layer; `places` are the columns of the skip connection's input, rows of WIDE, that it puts places into."""
    first_row, first_column, row, column = _tile(ROWS, COLUMNS)
    pre = _by_place(points, weight, row, column, n_rows, N, STRIDE)
    pre += _head_bias(codes, row, column, n_rows, per_head, N, ROWS)
    out.store([first_row, first_column], softplus(pre).to(tl.float16))
    if tl.program_id(0) == 0:
        at = places + row[:, None] * WIDE + tl.arange(0, PLACE_COLUMNS)[None, :]
        place = _places(points, row, n_rows, PLACE_COLUMNS)
        tl.store(at, place.to(tl.float16), mask=(row < n_rows)[:, None])


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
    scale,
    SKIP: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BK: tl.constexpr,
):
    """A layer of N columns, and zeros up to WIDTH; with SKIP places come in, all is scaled, and heads have biases."""
    first_row, first_column, row, column = _tile(ROWS, COLUMNS)
    if SKIP:
        sums = _by_place(points, by_place, row, column, n_rows, N, STRIDE)
    else:
        sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k in range(0, K, BK):
        sums = tl.dot(rows_in.load([first_row, k]), weight.load([first_column, k]).T, sums)
    if SKIP:
        sums = sums * scale + _head_bias(bias, row, column, n_rows, per_head, N, ROWS)
    else:
        sums += tl.load(bias + column, mask=column < N, other=0.0)[None, :]
    a = softplus(sums)
    if N < WIDTH:
        a = tl.where((column < N)[None, :], a, 0.0)
    out.store([first_row, first_column], a.to(tl.float16))


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
    """Last layer, of at most 16 columns; its weight is in float32."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, 16)
    inside = row < n_rows
    sums = tl.zeros((ROWS, 16), dtype=tl.float32)
    for k in range(0, K, BK):
        c = k + tl.arange(0, BK)
        x = tl.load(rows_in + row[:, None] * K + c[None, :], mask=inside[:, None] & (c[None, :] < K), other=0.0)
        fits = (c < K)[:, None] & (column < N)[None, :]
        w = tl.load(weight + column[None, :] * K + c[:, None], mask=fits, other=0.0)
        sums = tl.dot(x, w.to(tl.float16), sums)
    sums += tl.load(bias + column, mask=column < N, other=0.0)[None, :]
    tl.store(out + row[:, None] * N + column[None, :], sums, mask=inside[:, None] & (column < N)[None, :])


@triton.jit
def maxima_kernel(values, maxima, n, BLOCK: tl.constexpr):
    """The largest length of N_MAXIMA parts."""
    most = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(tl.program_id(0) * BLOCK, n, N_MAXIMA * BLOCK):
        at = start + tl.arange(0, BLOCK)
        most = tl.maximum(most, tl.abs(tl.load(values + at, mask=at < n, other=0.0)))
    tl.store(maxima + tl.program_id(0), tl.max(most))


@triton.jit
def _store_slope(
    z,
    total,
    a,
    sums,
    n_rows,
    per_head,
    n_slots,
    BY_HEADS: tl.constexpr,
    N: tl.constexpr,
    SUM_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Store slopes before a softplus, given those behind it, and their sums; zero where activations are."""
    first_row, first_column, row, column = _tile(ROWS, COLUMNS)
    total = total * (1.0 - decay(a))
    z.store([first_row, first_column], total.to(tl.float16))
    _store_sums(sums, total, row, column, n_rows, per_head, n_slots, BY_HEADS, N, SUM_STRIDE, ROWS)
    return total


@triton.jit
def _store_moments(moments, factors, value, column, COUNT: tl.constexpr, N: tl.constexpr, STRIDE: tl.constexpr):
    """Store a tile's sums over rows of a value times each of the first COUNT of 16 factors, in half precision."""
    k = tl.arange(0, 16)[:, None]
    sums = tl.dot(tl.trans(factors.to(tl.float16)), value)
    at = moments + tl.program_id(1) * STRIDE + k * N + column[None, :]
    tl.store(at, sums, mask=(k < COUNT) & (column < N)[None, :])


@triton.jit
def return_kernel(
    by_out,
    maxima,
    largest,
    weight,
    a,
    z,
    moments,
    sums,
    n_rows,
    per_head,
    n_slots,
    BY_HEADS: tl.constexpr,
    N_OUT: tl.constexpr,
    N: tl.constexpr,
    SUM_STRIDE: tl.constexpr,
    MOMENT_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """From the slopes by the few outputs, divided by the largest, to those before a softplus.

    A tile's `moments` are what the last layer's weight and bias receive of its rows.
    """
    first_row, first_column, row, column = _tile(ROWS, COLUMNS)
    most = tl.maximum(tl.max(tl.load(maxima + tl.arange(0, N_MAXIMA))), 1e-30)
    if (first_row == 0) & (first_column == 0):
        tl.store(largest, most)
    activation = a.load([first_row, first_column])
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k in tl.static_range(N_OUT):
        slope = tl.load(by_out + row * N_OUT + k, mask=row < n_rows, other=0.0) / most
        total += slope[:, None] * tl.load(weight + k * N + column, mask=column < N, other=0.0)[None, :]
    c = tl.arange(0, 16)
    slopes = tl.load(
        by_out + row[:, None] * N_OUT + c[None, :], mask=(row < n_rows)[:, None] & (c < N_OUT)[None, :], other=0.0
    )
    slopes = slopes / most
    _store_moments(moments, slopes, activation, column, N_OUT, N, MOMENT_STRIDE)
    if tl.program_id(0) == 0:
        of_bias = tl.sum(slopes, axis=0)
        tl.store(moments + tl.program_id(1) * MOMENT_STRIDE + N_OUT * N + c, of_bias, mask=c < N_OUT)
    _store_slope(z, total, activation, sums, n_rows, per_head, n_slots, BY_HEADS, N, SUM_STRIDE, ROWS, COLUMNS)


@triton.jit
def back_kernel(
    by_out,
    weight,
    a,
    z,
    points,
    moments,
    scale,
    sums,
    n_rows,
    per_head,
    n_slots,
    BY_HEADS: tl.constexpr,
    FIRST: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    SUM_STRIDE: tl.constexpr,
    MOMENT_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BK: tl.constexpr,
):
    """From the slopes before a layer's softplus to those before the N columns of the layer below, and their sums.

    If that is the FIRST one, a tile's `moments` are what its weight's columns for places receive of the tile's rows.
    """
    first_row, first_column, row, column = _tile(ROWS, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k in range(0, K, BK):
        total = tl.dot(by_out.load([first_row, k]), weight.load([k, first_column]), total)
    total = _store_slope(
        z, total * scale, a.load([first_row, first_column]), sums, n_rows, per_head, n_slots, BY_HEADS, N, SUM_STRIDE,
        ROWS, COLUMNS,
    )  # fmt: skip
    if FIRST:
        _store_moments(moments, _places(points, row, n_rows, 16), total.to(tl.float16), column, 3, N, MOMENT_STRIDE)


@triton.jit
def sum_kernel(values, out, n_terms, n_columns, TERMS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sums (n_groups, n_columns) over the second dimension of values (n_groups, n_terms, n_columns)."""
    group, column = tl.program_id(1), tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros((TERMS, COLUMNS), dtype=tl.float32)
    for start in range(0, n_terms, TERMS):
        term = start + tl.arange(0, TERMS)
        at = values + (group * n_terms + term)[:, None] * n_columns + column[None, :]
        sums += tl.load(at, mask=(term < n_terms)[:, None] & (column < n_columns)[None, :], other=0.0)
    tl.store(out + group * n_columns + column, tl.sum(sums, axis=0), mask=column < n_columns)
