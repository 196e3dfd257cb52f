"""Kernels of the derivatives of a loss on values and gradients of the members' networks.

Names, beside those of `layer_kernels`: p1, p2, p3 are the loss's slopes by q1, q2, q3 (the gradient's own backward
pass goes from the first layer to the last); z4, z3, z2, z1 those by the numbers before softplus. With t = q s, where
s is the slope of softplus, the loss's slope by s is (p / s) q, and that by z, as s' = beta s (1 - s), is
beta p q (1 - s).
Slopes are scaled so that half precision holds them. What weights, biases and codes receive is summed for each tile, or
for some tiles of a network, and then in order. Sums over a tile's rows are products with a few rows of coefficients,
filled up to the 16 that the tensor cores want: sums among threads took longer than all else.
"""

import triton
import triton.language as tl

from nphm_core.models.fused.layer_kernels import BETA, decay, load_place, load_tile, product, put_place, store_tile


@triton.jit
def row_of_ones(one, ROWS: tl.constexpr):
    """Give coefficients (16, ROWS) that put the sum of all rows into row `one` of a product."""
    m = tl.arange(0, 16)[:, None] + 0 * tl.arange(0, ROWS)[None, :]
    return tl.where(m == one, 1.0, 0.0).to(tl.float16)


@triton.jit
def store_sums(sums, total, n, COUNT: tl.constexpr, WIDTH: tl.constexpr):
    """Store the first COUNT rows of sums (16, ...), WIDTH numbers apart."""
    m = tl.arange(0, 16)[:, None]
    tl.store(sums + m * WIDTH + n[None, :], total, mask=(m < COUNT) & (n < WIDTH)[None, :])


@triton.jit
def push_first_kernel(
    by_gradient,
    a1,
    half,
    w0,
    w1t,
    p1,
    p2,
    tile_network,
    n_tiles,
    n_rows,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    S: tl.constexpr,
    SW: tl.constexpr,
    SP: tl.constexpr,
    BK: tl.constexpr,
):
    """From the slope by the gradient to p1 and p2; the former stands in p2's last columns as well."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    network = tl.load(tile_network + tile)
    own = tile.to(tl.int64) * ROWS
    x, y, z = load_place(by_gradient, tile, n_rows, ROWS)
    n = tl.arange(0, SP)
    sums = tl.zeros((ROWS, SP), dtype=tl.float32)
    for k in range(0, H, BK):
        c = k + tl.arange(0, BK)
        wx, wy = tl.load(w0 + network * 3 * HP + c), tl.load(w0 + network * 3 * HP + HP + c)
        wz = tl.load(w0 + network * 3 * HP + 2 * HP + c)
        by_t = x[:, None] * wx[None, :] + y[:, None] * wy[None, :] + z[:, None] * wz[None, :]
        p = (by_t * (1.0 - decay(load_tile(a1 + own * H, c, ROWS, H)))).to(tl.float16)
        store_tile(p1 + own * H, c, p, ROWS, H)
        sums = tl.dot(p, tl.load(w1t + network * HP * SP + c[:, None] * SP + n[None, :]), sums)
    p = sums * (1.0 - decay(load_tile(half + own * SW, n, ROWS, SW)))
    store_tile(p2 + own * SW, n, put_place(p, x, y, z, n, S), ROWS, SW)


@triton.jit
def push_skip_kernel(
    p2,
    a3,
    w2t,
    p3,
    tile_network,
    n_tiles,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    SW: tl.constexpr,
    SP: tl.constexpr,
    CB: tl.constexpr,
    BK: tl.constexpr,
):
    """From p2 to p3."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    network = tl.load(tile_network + tile)
    own = tile.to(tl.int64) * ROWS
    n = tl.program_id(1) * CB + tl.arange(0, CB)
    sums = product(p2 + own * SW, w2t + network * SP * HP, n, ROWS, SW, HP, CB, BK)
    store_tile(p3 + own * H, n, sums * (1.0 - decay(load_tile(a3 + own * H, n, ROWS, H))), ROWS, H)


@triton.jit
def push_last_kernel(
    p3,
    a4,
    w3t,
    w4,
    by_value,
    z4,
    tile_sums,
    tile_network,
    n_tiles,
    SUMS: tl.constexpr,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    CB: tl.constexpr,
    BK: tl.constexpr,
):
    """From p3 and the slope by the value to z4, and what the last weights and b3 receive."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    network = tl.load(tile_network + tile)
    own = tile.to(tl.int64) * ROWS
    n = tl.program_id(1) * CB + tl.arange(0, CB)
    sums = product(p3 + own * H, w3t + network * HP * HP, n, ROWS, H, HP, CB, BK)
    by_row = tl.load(by_value + tile * ROWS + tl.arange(0, ROWS))
    v = by_row[:, None]
    a = load_tile(a4 + own * H, n, ROWS, H).to(tl.float32)
    rest = decay(a)
    p = sums * (1.0 - rest)
    by_pre = (tl.load(w4 + network * HP + n)[None, :] * (v * (1.0 - rest) + BETA * p * rest)).to(tl.float16)
    store_tile(z4 + own * H, n, by_pre, ROWS, H)
    total = tl.dot(row_of_ones(0, ROWS), by_pre)
    total = tl.dot(row_of_ones(1, ROWS), (p + v * a).to(tl.float16), total)
    store_sums(tile_sums + tile * SUMS, total, n, 2, H)
    if tl.program_id(1) == 0:
        tl.store(tile_sums + tile * SUMS + 2 * H, tl.sum(by_row, axis=0))


@triton.jit
def back_last_kernel(
    z4,
    a3,
    q3,
    p3,
    w3,
    z3,
    tile_sums,
    tile_network,
    n_tiles,
    SUMS: tl.constexpr,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    CB: tl.constexpr,
    BK: tl.constexpr,
):
    """From z4 to z3."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    network = tl.load(tile_network + tile)
    own = tile.to(tl.int64) * ROWS
    n = tl.program_id(1) * CB + tl.arange(0, CB)
    sums = product(z4 + own * H, w3 + network * HP * HP, n, ROWS, H, HP, CB, BK)
    rest = decay(load_tile(a3 + own * H, n, ROWS, H))
    pq = load_tile(p3 + own * H, n, ROWS, H).to(tl.float32) * load_tile(q3 + own * H, n, ROWS, H).to(tl.float32)
    by_pre = (sums * (1.0 - rest) + BETA * pq * rest).to(tl.float16)
    store_tile(z3 + own * H, n, by_pre, ROWS, H)
    store_sums(tile_sums + tile * SUMS, tl.dot(row_of_ones(0, ROWS), by_pre), n, 1, H)


@triton.jit
def back_skip_kernel(
    z3,
    half,
    q2,
    p2,
    w2,
    z2,
    tile_sums,
    tile_network,
    n_tiles,
    SUMS: tl.constexpr,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    S: tl.constexpr,
    SW: tl.constexpr,
    SP: tl.constexpr,
    BK: tl.constexpr,
):
    """From z3 to z2; its last columns hold what goes straight to the place."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    network = tl.load(tile_network + tile)
    own = tile.to(tl.int64) * ROWS
    n = tl.arange(0, SP)
    sums = product(z3 + own * H, w2 + network * HP * SP, n, ROWS, H, SP, SP, BK)
    rest = decay(load_tile(half + own * SW, n, ROWS, SW))
    pq = load_tile(p2 + own * SW, n, ROWS, SW).to(tl.float32) * load_tile(q2 + own * SW, n, ROWS, SW).to(tl.float32)
    by_pre = tl.where(n[None, :] < S, sums * (1.0 - rest) + BETA * pq * rest, sums).to(tl.float16)
    store_tile(z2 + own * SW, n, by_pre, ROWS, SW)
    store_sums(tile_sums + tile * SUMS, tl.dot(row_of_ones(0, ROWS), by_pre), n, 1, SW)


@triton.jit
def back_first_kernel(
    place,
    by_gradient,
    by_offset,
    flips,
    z2,
    a1,
    q1,
    p1,
    w1,
    w0,
    tile_sums,
    by_place,
    tile_condition,
    tile_network,
    n_tiles,
    n_rows,
    SUMS: tl.constexpr,
    MEMBERS: tl.constexpr,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    S: tl.constexpr,
    SW: tl.constexpr,
    SP: tl.constexpr,
    CB: tl.constexpr,
    BK: tl.constexpr,
):
    """From z2 to z1: what the first code and weights receive, and the place in the head.

    `by_place` is zero before; each block of columns has its own sums of it.
    """
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    condition, network = tl.load(tile_condition + tile), tl.load(tile_network + tile)
    own = tile.to(tl.int64) * ROWS
    block = tl.program_id(1)
    n = block * CB + tl.arange(0, CB)
    sums = product(z2 + own * SW, w1 + network * SP * HP, n, ROWS, SW, HP, CB, BK)
    rest = decay(load_tile(a1 + own * H, n, ROWS, H))
    q = load_tile(q1 + own * H, n, ROWS, H).to(tl.float32)
    by_pre = sums * (1.0 - rest) + BETA * load_tile(p1 + own * H, n, ROWS, H).to(tl.float32) * q * rest
    by_pre = by_pre.to(tl.float16)
    at = tile * ROWS + tl.arange(0, ROWS)
    # The code's slope in row 0, the weights' by axis in those after it.
    m = tl.arange(0, 16)[:, None]
    axis_at, is_axis = (m - 1) * n_rows + at[None, :], (m >= 1) & (m <= 3)
    left = tl.where(m == 0, 1.0, tl.load(place + axis_at, mask=is_axis, other=0.0)).to(tl.float16)
    total = tl.dot(left, by_pre)
    left = tl.load(by_gradient + axis_at, mask=is_axis, other=0.0).to(tl.float16)
    total = tl.dot(left, (q * (1.0 - rest)).to(tl.float16), total)
    store_sums(tile_sums + tile * SUMS, total, n, 4, H)
    # By the place: three of sixteen columns.
    c = tl.arange(0, 16)
    axes = tl.load(w0 + network * 3 * HP + c[None, :] * HP + n[:, None], mask=c[None, :] < 3, other=0.0)
    along = tl.dot(by_pre, axes.to(tl.float16))
    inside = (c[None, :] < 3) & (at[:, None] >= 0)
    if block == 0:
        row = own * SW + tl.arange(0, ROWS)[:, None] * SW
        along += tl.load(z2 + row + S + c[None, :], mask=inside, other=0.0).to(tl.float32)
    along = along * tl.where(c == 0, tl.load(flips + condition % MEMBERS), 1.0)[None, :]
    at_axis = c[None, :] * n_rows + at[:, None]
    if block == 0:
        along += tl.load(by_offset + at_axis, mask=inside, other=0.0)
    tl.atomic_add(by_place + at_axis, along, mask=inside, sem="relaxed")
    tl.store(tile_sums + tile * SUMS + 4 * H + 3 * block + c, tl.sum(along, axis=0), mask=c < 3)


@triton.jit
def weight_kernel(
    by_out,
    rows_in,
    q_out,
    a_out,
    p_in,
    last,
    sums,
    chunk_network,
    chunk_first,
    chunk_end,
    n_chunks,
    LAST: tl.constexpr,
    LIMIT: tl.constexpr,
    ROWS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    MB: tl.constexpr,
    NP: tl.constexpr,
    BR: tl.constexpr,
):
    """What a weight (M, N) receives from some tiles: by_out' rows_in + t' p_in, t = q_out (1 - exp(-beta a_out)).

    With LAST, q_out is the same row `last` for all; columns of t from LIMIT on are zero.
    """
    chunk = tl.program_id(0)
    if chunk >= tl.load(n_chunks):
        return
    network = tl.load(chunk_network + chunk)
    m, n = tl.program_id(1) * MB + tl.arange(0, MB), tl.arange(0, NP)
    begin, end = tl.load(chunk_first + chunk) * ROWS, tl.load(chunk_end + chunk) * ROWS
    total = tl.zeros((MB, NP), dtype=tl.float32)
    per_out, per_in = tl.full((), M, tl.int64), tl.full((), N, tl.int64)
    for first in range(begin, end, BR):
        outs = by_out + first * per_out
        ins = rows_in + first * per_in
        total = tl.dot(tl.trans(load_tile(outs, m, BR, M)), load_tile(ins, n, BR, N), total)
        slope = 1.0 - decay(load_tile(a_out + first * per_out, m, BR, M))
        if LAST:
            t = slope * tl.load(last + network * LIMIT + m, mask=m < M, other=0.0)[None, :]
        else:
            t = slope * load_tile(q_out + first * per_out, m, BR, M)
            t = tl.where(m[None, :] < LIMIT, t, 0.0)
        total = tl.dot(tl.trans(t.to(tl.float16)), load_tile(p_in + first * per_in, n, BR, N), total)
    at = sums + chunk.to(tl.int64) * M * N + m[:, None] * N + n[None, :]
    tl.store(at, total, mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def segment_kernel(rows, starts, out, scale, WIDTH, BLOCK: tl.constexpr):
    """Sum the rows of each segment in their order, and divide by the scale."""
    segment = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    stride = tl.full((), 0, tl.int64) + WIDTH
    for row in range(tl.load(starts + segment), tl.load(starts + segment + 1)):
        total += tl.load(rows + row * stride + column, mask=inside, other=0.0)
    tl.store(out + segment.to(tl.int64) * WIDTH + column, total / tl.load(scale), mask=inside)
