"""All layers of the members' networks in one kernel, for values only: activations stay in registers.

A layer's columns are two halves of CW, so that a half is one operand of the next product; weights come from the L2
cache, which holds all networks. Names are those of `layer_kernels`.
"""

import triton
import triton.language as tl

from nphm_core.models.fused.layer_kernels import load_place, softplus


@triton.jit
def _first(x, y, z, code, w0, column, HP: tl.constexpr):
    wx, wy, wz = tl.load(w0 + column), tl.load(w0 + HP + column), tl.load(w0 + 2 * HP + column)
    pre = x[:, None] * wx[None, :] + y[:, None] * wy[None, :] + z[:, None] * wz[None, :]
    return softplus(pre + tl.load(code + column)[None, :]).to(tl.float16)


@triton.jit
def _third(half, x, y, z, code, w2t, w2p, column, HP: tl.constexpr, SP: tl.constexpr):
    sums = tl.dot(half, tl.load(w2t + tl.arange(0, SP)[:, None] * HP + column[None, :]))
    wx, wy, wz = tl.load(w2p + column), tl.load(w2p + HP + column), tl.load(w2p + 2 * HP + column)
    sums += x[:, None] * wx[None, :] + y[:, None] * wy[None, :] + z[:, None] * wz[None, :]
    return softplus(sums + tl.load(code + column)[None, :]).to(tl.float16)


@triton.jit
def _fourth(low, high, w3t, b3, w4, column, HP: tl.constexpr, CW: tl.constexpr):
    k = tl.arange(0, CW)
    sums = tl.dot(low, tl.load(w3t + k[:, None] * HP + column[None, :]))
    sums = tl.dot(high, tl.load(w3t + (CW + k)[:, None] * HP + column[None, :]), sums)
    a = softplus(sums + tl.load(b3 + column)[None, :])
    return tl.sum(a * tl.load(w4 + column)[None, :], axis=1)


@triton.jit
def value_kernel(
    place,
    first,
    skip,
    w0,
    w1t,
    b1,
    w2t,
    w2p,
    w3t,
    b3,
    w4,
    b4,
    value,
    tile_condition,
    tile_network,
    n_tiles,
    n_rows,
    ROWS: tl.constexpr,
    HP: tl.constexpr,
    SP: tl.constexpr,
    CW: tl.constexpr,
):
    """From places to values."""
    tile = tl.program_id(0)
    if tile >= tl.load(n_tiles):
        return
    condition, network = tl.load(tile_condition + tile), tl.load(tile_network + tile)
    x, y, z = load_place(place, tile, n_rows, ROWS)
    low = tl.arange(0, CW)
    high = CW + low
    n = tl.arange(0, SP)
    w0 += network * 3 * HP
    w1t += network * HP * SP
    sums = tl.dot(_first(x, y, z, first + condition * HP, w0, low, HP), tl.load(w1t + low[:, None] * SP + n[None, :]))
    sums = tl.dot(
        _first(x, y, z, first + condition * HP, w0, high, HP), tl.load(w1t + high[:, None] * SP + n[None, :]), sums
    )
    half = softplus(sums + tl.load(b1 + network * SP + n)[None, :]).to(tl.float16)
    w2t += network * SP * HP
    w2p += network * 3 * HP
    a_low = _third(half, x, y, z, skip + condition * HP, w2t, w2p, low, HP, SP)
    a_high = _third(half, x, y, z, skip + condition * HP, w2t, w2p, high, HP, SP)
    w3t += network * HP * HP
    b3 += network * HP
    w4 += network * HP
    v = _fourth(a_low, a_high, w3t, b3, w4, low, HP, CW) + _fourth(a_low, a_high, w3t, b3, w4, high, HP, CW)
    tl.store(value + tile * ROWS + tl.arange(0, ROWS), v + tl.load(b4 + network))
