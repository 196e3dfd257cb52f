"""Kernels of the derivatives of a loss on values and gradients of the members' networks.

Names, beside those of `layer_kernels`: p1, p2, p3 are the loss's slopes by q1, q2, q3 (the gradient's own backward
pass goes from the first layer to the last); z4, z3, z2, z1 those by the numbers before softplus. With t = q s, where
s is the slope of softplus, the loss's slope by s is (p / s) q, and that by z, as s' = beta s (1 - s), is
beta p q (1 - s).
Slopes are scaled so that half precision holds them. What weights, biases and codes receive is summed for each tile, or
for some tiles of a network, and then in order.
"""

import triton
import triton.language as tl

from nphm_core.models.fused.layer_kernels import BETA, decay, load_place, load_tile, product, put_place, store_tile


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
    BK: tl.constexpr,
):
    """From p2 to p3."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    network = tl.load(tile_network + tile)
    own = tile.to(tl.int64) * ROWS
    sums = product(p2 + own * SW, w2t + network * SP * HP, ROWS, SW, HP, BK)
    n = tl.arange(0, HP)
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
    BK: tl.constexpr,
):
    """From p3 and the slope by the value to z4, and what the last weights and b3 receive."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    network = tl.load(tile_network + tile)
    own = tile.to(tl.int64) * ROWS
    sums = product(p3 + own * H, w3t + network * HP * HP, ROWS, H, HP, BK)
    n = tl.arange(0, HP)
    v = tl.load(by_value + tile * ROWS + tl.arange(0, ROWS))[:, None]
    a = load_tile(a4 + own * H, n, ROWS, H).to(tl.float32)
    rest = decay(a)
    p = sums * (1.0 - rest)
    by_pre = tl.load(w4 + network * HP + n)[None, :] * (v * (1.0 - rest) + BETA * p * rest)
    store_tile(z4 + own * H, n, by_pre, ROWS, H)
    tl.store(tile_sums + tile * SUMS + n, tl.sum(by_pre, axis=0), mask=n < H)
    tl.store(tile_sums + tile * SUMS + H + n, tl.sum(p + v * a, axis=0), mask=n < H)
    tl.store(tile_sums + tile * SUMS + 2 * H, tl.sum(tl.load(by_value + tile * ROWS + tl.arange(0, ROWS)), axis=0))


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
    BK: tl.constexpr,
):
    """From z4 to z3."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    network = tl.load(tile_network + tile)
    own = tile.to(tl.int64) * ROWS
    sums = product(z4 + own * H, w3 + network * HP * HP, ROWS, H, HP, BK)
    n = tl.arange(0, HP)
    rest = decay(load_tile(a3 + own * H, n, ROWS, H))
    pq = load_tile(p3 + own * H, n, ROWS, H).to(tl.float32) * load_tile(q3 + own * H, n, ROWS, H).to(tl.float32)
    by_pre = sums * (1.0 - rest) + BETA * pq * rest
    store_tile(z3 + own * H, n, by_pre, ROWS, H)
    tl.store(tile_sums + tile * SUMS + n, tl.sum(by_pre, axis=0), mask=n < H)


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
    sums = product(z3 + own * H, w2 + network * HP * SP, ROWS, H, SP, BK)
    n = tl.arange(0, SP)
    rest = decay(load_tile(half + own * SW, n, ROWS, SW))
    pq = load_tile(p2 + own * SW, n, ROWS, SW).to(tl.float32) * load_tile(q2 + own * SW, n, ROWS, SW).to(tl.float32)
    by_pre = tl.where(n[None, :] < S, sums * (1.0 - rest) + BETA * pq * rest, sums)
    store_tile(z2 + own * SW, n, by_pre, ROWS, SW)
    tl.store(tile_sums + tile * SUMS + n, tl.sum(by_pre, axis=0), mask=n < SW)


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
    BK: tl.constexpr,
):
    """From z2 to z1: what the first code and weights receive (four sums a tile), and the place in the head."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    condition, network = tl.load(tile_condition + tile), tl.load(tile_network + tile)
    own = tile.to(tl.int64) * ROWS
    sums = product(z2 + own * SW, w1 + network * SP * HP, ROWS, SW, HP, BK)
    n = tl.arange(0, HP)
    rest = decay(load_tile(a1 + own * H, n, ROWS, H))
    q = load_tile(q1 + own * H, n, ROWS, H).to(tl.float32)
    by_pre = sums * (1.0 - rest) + BETA * load_tile(p1 + own * H, n, ROWS, H).to(tl.float32) * q * rest
    t = q * (1.0 - rest)
    tl.store(tile_sums + tile * SUMS + n, tl.sum(by_pre, axis=0), mask=n < H)
    row = tl.arange(0, ROWS)
    at = tile * ROWS + row
    for axis in tl.static_range(3):
        p, g = tl.load(place + axis * n_rows + at), tl.load(by_gradient + axis * n_rows + at)
        by_weight = tl.sum(by_pre * p[:, None] + t * g[:, None], axis=0)
        tl.store(tile_sums + tile * SUMS + (axis + 1) * H + n, by_weight, mask=n < H)
        along = tl.sum(by_pre * tl.load(w0 + network * 3 * HP + axis * HP + n)[None, :], axis=1)
        along += tl.load(z2 + own * SW + row * SW + S + axis).to(tl.float32)
        if axis == 0:
            along = along * tl.load(flips + condition % MEMBERS)
        along += tl.load(by_offset + axis * n_rows + at)
        tl.store(by_place + axis * n_rows + at, along)
        tl.store(tile_sums + tile * SUMS + 4 * H + axis, tl.sum(along, axis=0))


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
