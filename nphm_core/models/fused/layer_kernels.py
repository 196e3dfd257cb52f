"""Kernels of the members' networks: values, and the gradient by the point pulled back through the layers.

A tile is ROWS rows of one condition, so of one network and one folded code. A kernel is one layer: a product on the
tensor cores in half precision (the ten bits of TF32) with sums in float32, the layer's other operations before and
after it, one pass over memory. Only activations a = softplus(z) are kept; the slope is 1 - exp(-beta a).

Wide layers are cut into blocks of CB columns, each a program of its own (the grid's second axis): programs that need
few registers run side by side, and wait for memory in turns. A sum over all columns is added up by at most two of
them, which gives the same bits in either order.

Names: a1 to a4 are the activations; q3, q2, q1 the derivative of a row's value by them. `half` is a2 with the
place in its last three columns, as the skip connection has it; there q2 holds what goes straight to the place.
"""

import os

import torch
import triton
import triton.language as tl

BETA = tl.constexpr(100.0)
_TURN = tl.constexpr(-144.26950408889634)
"""Minus beta, for powers of two instead of e."""

if torch.version.cuda is None or os.environ.get("TRITON_INTERPRET") == "1":

    @triton.jit
    def _power(x):
        """Give 2 to a power that is no more than 0."""
        return tl.exp2(x)

else:

    @triton.jit
    def _power(x):
        """Give 2 to a power that is no more than 0, in one instruction: what is below 1e-38 becomes 0."""
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def softplus(z):
    """Give log(1 + exp(beta z)) / beta, to 1e-5 of what it adds to max(z, 0).

    log(1 + e) is e times a polynomial; the library's logarithm took most of the time of a layer.
    """
    e = _power(_TURN * tl.abs(z))
    series = 0.1012222170829773 - 0.023869125172495842 * e
    series = series * e - 0.2100486308336258
    series = series * e + 0.3252066671848297
    series = series * e - 0.4993613660335541
    series = series * e + 0.9999915957450867
    return tl.maximum(z, 0.0) + (0.01 * e) * series


@triton.jit
def decay(a):
    """Give one minus the slope of softplus, from its value."""
    return _power(_TURN * a.to(tl.float32))


@triton.jit
def load_tile(matrix, columns, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Load columns of a tile; zero beyond its width."""
    rows = tl.arange(0, ROWS)
    return tl.load(matrix + rows[:, None] * WIDTH + columns[None, :], mask=columns[None, :] < WIDTH, other=0.0)


@triton.jit
def store_tile(matrix, columns, value, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Store columns of a tile."""
    rows = tl.arange(0, ROWS)
    tl.store(matrix + rows[:, None] * WIDTH + columns[None, :], value.to(tl.float16), mask=columns[None, :] < WIDTH)


@triton.jit
def product(
    matrix, weight, n, ROWS: tl.constexpr, WIDTH: tl.constexpr, STRIDE: tl.constexpr, CB: tl.constexpr, BK: tl.constexpr
):
    """Multiply a tile with the columns `n`, CB of them, of a weight (WIDTH or more, STRIDE)."""
    sums = tl.zeros((ROWS, CB), dtype=tl.float32)
    for k in range(0, WIDTH, BK):
        columns = k + tl.arange(0, BK)
        x = load_tile(matrix, columns, ROWS, WIDTH)
        w = tl.load(weight + columns[:, None] * STRIDE + n[None, :])
        sums = tl.dot(x, w, sums)
    return sums


@triton.jit
def load_place(place, tile, n_rows, ROWS: tl.constexpr):
    """Load three planes."""
    row = tile * ROWS + tl.arange(0, ROWS)
    return tl.load(place + row), tl.load(place + n_rows + row), tl.load(place + 2 * n_rows + row)


@triton.jit
def put_place(wide, x, y, z, columns, S: tl.constexpr):
    """Put a place into the three columns after the first S, and zero behind."""
    c = columns[None, :]
    last = tl.where(c == S, x[:, None], tl.where(c == S + 1, y[:, None], tl.where(c == S + 2, z[:, None], 0.0)))
    return tl.where(c < S, wide, last)


@triton.jit
def first_kernel(
    place,
    codes,
    w0,
    w1t,
    b1,
    a1,
    half,
    tile_condition,
    tile_network,
    n_tiles,
    n_rows,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    S: tl.constexpr,
    SW: tl.constexpr,
    SP: tl.constexpr,
    BK: tl.constexpr,
):
    """First two layers: from places to a2."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    condition, network = tl.load(tile_condition + tile), tl.load(tile_network + tile)
    x, y, z = load_place(place, tile, n_rows, ROWS)
    n = tl.arange(0, SP)
    sums = tl.zeros((ROWS, SP), dtype=tl.float32)
    for k in range(0, H, BK):
        c = k + tl.arange(0, BK)
        wx, wy = tl.load(w0 + network * 3 * HP + c), tl.load(w0 + network * 3 * HP + HP + c)
        wz = tl.load(w0 + network * 3 * HP + 2 * HP + c)
        pre = x[:, None] * wx[None, :] + y[:, None] * wy[None, :] + z[:, None] * wz[None, :]
        a = softplus(pre + tl.load(codes + condition * HP + c)[None, :]).to(tl.float16)
        if KEEP:
            store_tile(a1 + tile.to(tl.int64) * ROWS * H, c, a, ROWS, H)
        sums = tl.dot(a, tl.load(w1t + network * HP * SP + c[:, None] * SP + n[None, :]), sums)
    a2 = softplus(sums + tl.load(b1 + network * SP + n)[None, :])
    store_tile(half + tile.to(tl.int64) * ROWS * SW, n, put_place(a2, x, y, z, n, S), ROWS, SW)


@triton.jit
def third_kernel(
    place,
    half,
    codes,
    w2t,
    w2p,
    a3,
    tile_condition,
    tile_network,
    n_tiles,
    n_rows,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    SW: tl.constexpr,
    SP: tl.constexpr,
    CB: tl.constexpr,
    BK: tl.constexpr,
):
    """Third layer; the place comes in with all its bits."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    condition, network = tl.load(tile_condition + tile), tl.load(tile_network + tile)
    n = tl.program_id(1) * CB + tl.arange(0, CB)
    sums = product(half + tile.to(tl.int64) * ROWS * SW, w2t + network * SP * HP, n, ROWS, SW, HP, CB, BK)
    x, y, z = load_place(place, tile, n_rows, ROWS)
    wx, wy = tl.load(w2p + network * 3 * HP + n), tl.load(w2p + network * 3 * HP + HP + n)
    wz = tl.load(w2p + network * 3 * HP + 2 * HP + n)
    sums += x[:, None] * wx[None, :] + y[:, None] * wy[None, :] + z[:, None] * wz[None, :]
    a = softplus(sums + tl.load(codes + condition * HP + n)[None, :])
    store_tile(a3 + tile.to(tl.int64) * ROWS * H, n, a, ROWS, H)


@triton.jit
def fourth_kernel(
    a3,
    w3t,
    b3,
    w4,
    b4,
    a4,
    value,
    tile_network,
    n_tiles,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    CB: tl.constexpr,
    BK: tl.constexpr,
):
    """Last two layers: from a3 to the value, which is zero before."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    network = tl.load(tile_network + tile)
    n = tl.program_id(1) * CB + tl.arange(0, CB)
    sums = product(a3 + tile.to(tl.int64) * ROWS * H, w3t + network * HP * HP, n, ROWS, H, HP, CB, BK)
    a = softplus(sums + tl.load(b3 + network * HP + n)[None, :])
    if KEEP:
        store_tile(a4 + tile.to(tl.int64) * ROWS * H, n, a, ROWS, H)
    v = tl.sum(a * tl.load(w4 + network * HP + n)[None, :], axis=1)
    if tl.program_id(1) == 0:
        v += tl.load(b4 + network)
    tl.atomic_add(value + tile * ROWS + tl.arange(0, ROWS), v, sem="relaxed")


@triton.jit
def pull_last_kernel(
    a4,
    w4,
    w3,
    q3,
    tile_network,
    n_tiles,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    CB: tl.constexpr,
    BK: tl.constexpr,
):
    """From the value to q3."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    network = tl.load(tile_network + tile)
    n = tl.program_id(1) * CB + tl.arange(0, CB)
    sums = tl.zeros((ROWS, CB), dtype=tl.float32)
    for k in range(0, H, BK):
        c = k + tl.arange(0, BK)
        a = load_tile(a4 + tile.to(tl.int64) * ROWS * H, c, ROWS, H)
        t = (1.0 - decay(a)) * tl.load(w4 + network * HP + c)[None, :]
        sums = tl.dot(t.to(tl.float16), tl.load(w3 + network * HP * HP + c[:, None] * HP + n[None, :]), sums)
    store_tile(q3 + tile.to(tl.int64) * ROWS * H, n, sums, ROWS, H)


@triton.jit
def pull_skip_kernel(
    a3,
    q3,
    w2,
    q2,
    tile_network,
    n_tiles,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    SW: tl.constexpr,
    SP: tl.constexpr,
    BK: tl.constexpr,
):
    """From q3 to q2 and the part of the gradient that skips the first layers."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    network = tl.load(tile_network + tile)
    n = tl.arange(0, SP)
    sums = tl.zeros((ROWS, SP), dtype=tl.float32)
    for k in range(0, H, BK):
        c = k + tl.arange(0, BK)
        a = load_tile(a3 + tile.to(tl.int64) * ROWS * H, c, ROWS, H)
        t = load_tile(q3 + tile.to(tl.int64) * ROWS * H, c, ROWS, H) * (1.0 - decay(a))
        sums = tl.dot(t.to(tl.float16), tl.load(w2 + network * HP * SP + c[:, None] * SP + n[None, :]), sums)
    store_tile(q2 + tile.to(tl.int64) * ROWS * SW, n, sums, ROWS, SW)


@triton.jit
def pull_first_kernel(
    a1,
    half,
    q2,
    w1,
    w0,
    q1,
    gradient,
    tile_network,
    n_tiles,
    n_rows,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    S: tl.constexpr,
    SW: tl.constexpr,
    SP: tl.constexpr,
    CB: tl.constexpr,
    BK: tl.constexpr,
):
    """From q2 to q1 and the gradient by the place, which is zero before."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    network = tl.load(tile_network + tile)
    own = tile.to(tl.int64) * ROWS
    n = tl.program_id(1) * CB + tl.arange(0, CB)
    sums = tl.zeros((ROWS, CB), dtype=tl.float32)
    for k in range(0, SW, BK):
        c = k + tl.arange(0, BK)
        q = load_tile(q2 + own * SW, c, ROWS, SW)
        t = tl.where(c[None, :] < S, q * (1.0 - decay(load_tile(half + own * SW, c, ROWS, SW))), 0.0)
        sums = tl.dot(t.to(tl.float16), tl.load(w1 + network * SP * HP + c[:, None] * HP + n[None, :]), sums)
    if KEEP:
        store_tile(q1 + own * H, n, sums, ROWS, H)
    t = sums * (1.0 - decay(load_tile(a1 + own * H, n, ROWS, H)))
    row = tl.arange(0, ROWS)
    for axis in tl.static_range(3):
        along = tl.sum(t * tl.load(w0 + network * 3 * HP + axis * HP + n)[None, :], axis=1)
        if tl.program_id(1) == 0:
            along += tl.load(q2 + own * SW + row * SW + S + axis).to(tl.float32)
        tl.atomic_add(gradient + axis * n_rows + tile * ROWS + row, along, sem="relaxed")
