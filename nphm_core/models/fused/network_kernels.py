"""Kernels of one wide network that sees every point: layers with their softplus, and the way back through them.

A program makes a tile of ROWS rows and COLUMNS columns of a layer's output; those of the same rows follow one another,
so that what they all read stays in the cache. Codes are biases of each head's rows, which lie together; a tile must not
have rows of three heads. Activations are kept in half precision, from which the slope of softplus is 1 - exp(-beta a).
Weights lie as PyTorch has them, (outputs, inputs), with rows of STRIDE numbers. The input of the skip connection has
its places behind all other columns, in front of which columns of zeros fill up eight: in products with half precision
it has none.
"""

import triton
import triton.language as tl

from nphm_core.models.fused.layer_kernels import decay, softplus

PLACE_COLUMNS = tl.constexpr(8)


@triton.jit
def _tile(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Give the rows and columns of a program."""
    return tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)


@triton.jit
def _place(points, row, n_rows):
    inside = row < n_rows
    x = tl.load(points + 3 * row, mask=inside, other=0.0)[:, None]
    y = tl.load(points + 3 * row + 1, mask=inside, other=0.0)[:, None]
    return x, y, tl.load(points + 3 * row + 2, mask=inside, other=0.0)[:, None]


@triton.jit
def _by_place(points, weight, row, column, n_rows, N: tl.constexpr, STRIDE: tl.constexpr):
    """Multiply places with three columns of a weight, with all their bits."""
    x, y, z = _place(points, row, n_rows)
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
def _store_sums(sums, value, row, column, n_rows, per_head, n_slots, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Store the sums of each head's rows in the slot of the head that belongs to this tile."""
    tile = tl.program_id(1)
    head = tile * ROWS // per_head
    end = (head + 1) * per_head
    slot = head * n_slots + tile - head * per_head // ROWS
    own = tl.sum(tl.where((row < end)[:, None], value, 0.0), axis=0)
    tl.store(sums + slot * WIDTH + column, own, mask=column < WIDTH)
    if end < tl.minimum((tile + 1) * ROWS, n_rows):
        other = tl.sum(tl.where((row < end)[:, None], 0.0, value), axis=0)
        # The first slot of the next head.
        tl.store(sums + (head + 1) * n_slots * WIDTH + column, other, mask=column < WIDTH)


@triton.jit
def _product(
    rows_in,
    weight,
    row,
    column,
    n_rows,
    BACK: tl.constexpr,
    DESCRIBED: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    IN_STRIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BK: tl.constexpr,
):
    """Multiply K columns with a weight (N, K), or going back with a weight (K, N)."""
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k in range(0, K, BK):
        if DESCRIBED:
            x, w = _described(rows_in, weight, k, BACK, ROWS, COLUMNS)
        else:
            x, w = _pointed(rows_in, weight, row, column, k, n_rows, BACK, K, N, IN_STRIDE, STRIDE, COLUMNS, BK)
        sums = tl.dot(x, w, sums)
    return sums


@triton.jit
def _described(rows_in, weight, k, BACK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Load the factors of a product by the hardware that copies tiles; beyond the matrices there are zeros."""
    x = rows_in.load([tl.program_id(1) * ROWS, k])
    if BACK:
        w = weight.load([k, tl.program_id(0) * COLUMNS])
    else:
        w = weight.load([tl.program_id(0) * COLUMNS, k]).T
    return x, w


@triton.jit
def _pointed(
    rows_in,
    weight,
    row,
    column,
    k,
    n_rows,
    BACK: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    IN_STRIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    COLUMNS: tl.constexpr,
    BK: tl.constexpr,
):
    """Load the factors of a product."""
    c = k + tl.arange(0, BK)
    # Rows and columns too many repeat the last one: loads without masks are faster, and nobody stores them.
    left = rows_in + tl.minimum(row, n_rows - 1)[:, None] * IN_STRIDE + c[None, :]
    if BACK:
        right = weight + c[:, None] * STRIDE + column[None, :]
    else:
        right = weight + tl.minimum(column, N - 1)[None, :] * STRIDE + c[:, None]
    fits = (c < K)[:, None]
    if BACK and N % COLUMNS != 0:
        fits = fits & (column < N)[None, :]
    if K % BK == 0:
        x = tl.load(left)
    else:
        x = tl.load(left, mask=(c < K)[None, :], other=0.0)
    if K % BK == 0 and (not BACK or N % COLUMNS == 0):
        w = tl.load(right)
    else:
        w = tl.load(right, mask=fits, other=0.0)
    return x, w


@triton.jit
def _store_activation(
    out,
    sums,
    bias,
    points,
    by_place,
    row,
    column,
    n_rows,
    per_head,
    scale,
    SKIP: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    PLACE_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Store a layer's softplus, given its product; see `linear_kernel`."""
    if SKIP:
        sums = (sums + _by_place(points, by_place, row, column, n_rows, N, PLACE_STRIDE)) * scale
        sums += _head_bias(bias, row, column, n_rows, per_head, N, ROWS)
    else:
        sums += tl.load(bias + column, mask=column < N, other=0.0)[None, :]
    a = softplus(sums)
    if N < WIDTH:
        a = tl.where((column < N)[None, :], a, 0.0)
    fits = (row < n_rows)[:, None] & (column < WIDTH)[None, :]
    tl.store(out + row[:, None] * OUT_STRIDE + column[None, :], a.to(tl.float16), mask=fits)


@triton.jit
def _store_slope(
    z,
    total,
    a,
    sums,
    row,
    column,
    n_rows,
    per_head,
    n_slots,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    A_STRIDE: tl.constexpr,
    SUM_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Store slopes before a softplus, given those behind it, and their sums; zero in columns that only fill up."""
    fits = (row < n_rows)[:, None] & (column < WIDTH)[None, :]
    slope = 1.0 - decay(tl.load(a + row[:, None] * A_STRIDE + column[None, :], mask=fits, other=0.0))
    total = tl.where((row < n_rows)[:, None] & (column < N)[None, :], total * slope, 0.0)
    tl.store(z + row[:, None] * WIDTH + column[None, :], total.to(tl.float16), mask=fits)
    _store_sums(sums, total, row, column, n_rows, per_head, n_slots, SUM_STRIDE, ROWS)


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
    row, column = _tile(ROWS, COLUMNS)
    pre = _by_place(points, weight, row, column, n_rows, N, STRIDE)
    pre += _head_bias(codes, row, column, n_rows, per_head, N, ROWS)
    fits = (row < n_rows)[:, None] & (column < N)[None, :]
    tl.store(out + row[:, None] * N + column[None, :], softplus(pre).to(tl.float16), mask=fits)
    if tl.program_id(0) == 0:
        c = tl.arange(0, PLACE_COLUMNS)[None, :]
        place = tl.load(points + 3 * row[:, None] + c, mask=(row < n_rows)[:, None] & (c < 3), other=0.0)
        tl.store(places + row[:, None] * WIDE + c, place.to(tl.float16), mask=(row < n_rows)[:, None])


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
    DESCRIBED: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    IN_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BK: tl.constexpr,
):
    """A layer of N columns, and zeros up to WIDTH; with SKIP places come in, all is scaled, and heads have biases.

    With DESCRIBED the factors are given by descriptors, not pointers.
    """
    row, column = _tile(ROWS, COLUMNS)
    sums = _product(rows_in, weight, row, column, n_rows, False, DESCRIBED, K, N, IN_STRIDE, STRIDE, ROWS, COLUMNS, BK)
    _store_activation(
        out, sums, bias, points, by_place, row, column, n_rows, per_head, scale, SKIP, N, WIDTH, OUT_STRIDE, STRIDE,
        ROWS,
    )  # fmt: skip


@triton.jit
def finish_kernel(
    product,
    bias,
    points,
    by_place,
    out,
    n_rows,
    per_head,
    scale,
    SKIP: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """What `linear_kernel` does behind its product, which is given; `out` may be the product's memory."""
    row, column = _tile(ROWS, COLUMNS)
    fits = (row < n_rows)[:, None] & (column < WIDTH)[None, :]
    sums = tl.load(product + row[:, None] * OUT_STRIDE + column[None, :], mask=fits, other=0.0).to(tl.float32)
    _store_activation(
        out, sums, bias, points, by_place, row, column, n_rows, per_head, scale, SKIP, N, WIDTH, OUT_STRIDE, STRIDE,
        ROWS,
    )  # fmt: skip


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
def return_kernel(
    by_out,
    largest,
    weight,
    a,
    z,
    wide,
    sums,
    n_rows,
    per_head,
    n_slots,
    N_OUT: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """From the slopes by the few outputs, divided by the largest and put in rows of 16, to those before a softplus."""
    row, column = _tile(ROWS, COLUMNS)
    inside = row < n_rows
    scale = 1.0 / tl.maximum(tl.load(largest), 1e-30)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k in tl.static_range(N_OUT):
        slope = tl.load(by_out + row * N_OUT + k, mask=inside, other=0.0)
        total += slope[:, None] * tl.load(weight + k * N + column, mask=column < N, other=0.0)[None, :]
    if tl.program_id(0) == 0:
        c = tl.arange(0, 16)[None, :]
        slopes = tl.load(by_out + row[:, None] * N_OUT + c, mask=inside[:, None] & (c < N_OUT), other=0.0) * scale
        tl.store(wide + row[:, None] * 16 + c, slopes.to(tl.float16), mask=inside[:, None])
    _store_slope(z, total * scale, a, sums, row, column, n_rows, per_head, n_slots, N, N, N, N, ROWS)


@triton.jit
def back_kernel(
    by_out,
    weight,
    a,
    z,
    sums,
    n_rows,
    per_head,
    n_slots,
    scale,
    DESCRIBED: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    A_STRIDE: tl.constexpr,
    SUM_STRIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BK: tl.constexpr,
):
    """From the slopes before a layer's softplus to those before the layer below, N of WIDTH columns, and their sums."""
    row, column = _tile(ROWS, COLUMNS)
    total = _product(by_out, weight, row, column, n_rows, True, DESCRIBED, K, WIDTH, K, STRIDE, ROWS, COLUMNS, BK)
    _store_slope(
        z, total * scale, a, sums, row, column, n_rows, per_head, n_slots, N, WIDTH, A_STRIDE, SUM_STRIDE, ROWS
    )


@triton.jit
def slope_kernel(
    product,
    a,
    z,
    sums,
    n_rows,
    per_head,
    n_slots,
    scale,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    A_STRIDE: tl.constexpr,
    SUM_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """What `back_kernel` does behind its product, which is given; `z` may be the product's memory."""
    row, column = _tile(ROWS, COLUMNS)
    fits = (row < n_rows)[:, None] & (column < WIDTH)[None, :]
    total = tl.load(product + row[:, None] * WIDTH + column[None, :], mask=fits, other=0.0).to(tl.float32) * scale
    _store_slope(z, total, a, sums, row, column, n_rows, per_head, n_slots, N, WIDTH, A_STRIDE, SUM_STRIDE, ROWS)
