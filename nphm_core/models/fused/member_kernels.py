"""Kernels that choose the members of points, and blend what the members' networks say.

A block is some points of one head. Its members are chosen once, kept as one bit each in a 64 bit number a point, and
counted; from the counts follows the row that each pair of a point and a member has, without a sort: rows of a condition
(a member of a head) lie together in the points' order. Every sum has a fixed order: the same bits each time.
"""

import triton
import triton.language as tl


@triton.jit
def _place(points, anchors, head, first, n_points, POINTS: tl.constexpr, MEMBERS: tl.constexpr, ANCHORS: tl.constexpr):
    """Give the offsets of a block's points from all centres; the background's centre is the origin."""
    point = first + tl.arange(0, POINTS)
    inside = point < n_points
    at = (head * n_points + point).to(tl.int64) * 3
    member = tl.arange(0, MEMBERS)
    centre = (head * ANCHORS + member) * 3
    is_anchor = member < ANCHORS
    dx = tl.load(points + at, mask=inside, other=0.0)[:, None] - tl.load(anchors + centre, mask=is_anchor, other=0.0)
    dy = tl.load(points + at + 1, mask=inside, other=0.0)[:, None] - tl.load(
        anchors + centre + 1, mask=is_anchor, other=0.0
    )
    dz = tl.load(points + at + 2, mask=inside, other=0.0)[:, None] - tl.load(
        anchors + centre + 2, mask=is_anchor, other=0.0
    )
    return dx, dy, dz


@triton.jit
def _softmax(dx, dy, dz, variance, background, used, MEMBERS: tl.constexpr, ANCHORS: tl.constexpr):
    """Give the blend weights over the used members."""
    member = tl.arange(0, MEMBERS)[None, :]
    logit = tl.where(member < ANCHORS, -(dx * dx + dy * dy + dz * dz) / variance, -background / variance)
    logit = tl.where(used, logit, -1e30)
    raw = tl.where(used, tl.exp(logit - tl.max(logit, axis=1)[:, None]), 0.0)
    return raw / tl.sum(raw, axis=1)[:, None]


@triton.jit
def choose_kernel(
    points,
    anchors,
    bits,
    counts,
    n_points,
    n_blocks,
    min_weight,
    variance,
    background,
    POINTS: tl.constexpr,
    MEMBERS: tl.constexpr,
    ANCHORS: tl.constexpr,
):
    """Choose the members of a block's points, and count them."""
    block = tl.program_id(0)
    head, first = block // n_blocks, (block % n_blocks) * POINTS
    dx, dy, dz = _place(points, anchors, head, first, n_points, POINTS, MEMBERS, ANCHORS)
    member = tl.arange(0, MEMBERS)
    point = first + tl.arange(0, POINTS)
    every = (member[None, :] <= ANCHORS) & (point[:, None] >= 0)
    weight = _softmax(dx, dy, dz, variance, background, every, MEMBERS, ANCHORS)
    used = every & ((weight >= min_weight) | (member[None, :] == ANCHORS)) & (point[:, None] < n_points)
    flag = used.to(tl.int64)
    tl.store(
        bits + head * n_points + point, tl.sum(flag << member[None, :].to(tl.int64), axis=1), mask=point < n_points
    )
    count = tl.sum(used.to(tl.int32), axis=0)
    at = (head * (ANCHORS + 1) + member) * n_blocks + block % n_blocks
    tl.store(counts + at, count, mask=member <= ANCHORS)


@triton.jit
def _rows(bits, base, block, n_blocks, n_points, POINTS: tl.constexpr, MEMBERS: tl.constexpr, ANCHORS: tl.constexpr):
    """Give which members a block's points use, and the row of each pair."""
    head, member = block // n_blocks, tl.arange(0, MEMBERS)
    point = (block % n_blocks) * POINTS + tl.arange(0, POINTS)
    mask = tl.load(bits + head * n_points + point, mask=point < n_points, other=0)
    flag = ((mask[:, None] >> member[None, :].to(tl.int64)) & 1).to(tl.int32)
    at = (head * (ANCHORS + 1) + member) * n_blocks + block % n_blocks
    start = tl.load(base + at, mask=member <= ANCHORS, other=0)
    return flag > 0, start[None, :] + tl.cumsum(flag, axis=0) - flag


@triton.jit
def scatter_kernel(
    points,
    anchors,
    flips,
    bits,
    base,
    place,
    n_points,
    n_blocks,
    n_rows,
    POINTS: tl.constexpr,
    MEMBERS: tl.constexpr,
    ANCHORS: tl.constexpr,
):
    """Write the place of each row as its member sees it: three planes."""
    block = tl.program_id(0)
    head, first = block // n_blocks, (block % n_blocks) * POINTS
    dx, dy, dz = _place(points, anchors, head, first, n_points, POINTS, MEMBERS, ANCHORS)
    used, row = _rows(bits, base, block, n_blocks, n_points, POINTS, MEMBERS, ANCHORS)
    member = tl.arange(0, MEMBERS)
    flip = tl.load(flips + member, mask=member <= ANCHORS, other=1.0)
    fits = used & (row < n_rows)
    tl.store(place + row, dx * flip[None, :], mask=fits)
    tl.store(place + n_rows + row, dy, mask=fits)
    tl.store(place + 2 * n_rows + row, dz, mask=fits)


@triton.jit
def blend_kernel(
    points,
    anchors,
    flips,
    bits,
    base,
    value,
    gradient,
    out,
    out_gradient,
    n_points,
    n_blocks,
    n_rows,
    variance,
    background,
    WITH_GRADIENT: tl.constexpr,
    POINTS: tl.constexpr,
    MEMBERS: tl.constexpr,
    ANCHORS: tl.constexpr,
):
    """Blend the rows of each point, and their gradients by the place in the head."""
    block = tl.program_id(0)
    head, first = block // n_blocks, (block % n_blocks) * POINTS
    dx, dy, dz = _place(points, anchors, head, first, n_points, POINTS, MEMBERS, ANCHORS)
    used, row = _rows(bits, base, block, n_blocks, n_points, POINTS, MEMBERS, ANCHORS)
    weight = _softmax(dx, dy, dz, variance, background, used, MEMBERS, ANCHORS)
    fits = used & (row < n_rows)
    v = tl.load(value + row, mask=fits, other=0.0)
    blended = tl.sum(weight * v, axis=1)
    point = first + tl.arange(0, POINTS)
    inside = point < n_points
    at = head * n_points + point
    tl.store(out + at, blended, mask=inside)
    if WITH_GRADIENT:
        member = tl.arange(0, MEMBERS)
        flip = tl.load(flips + member, mask=member <= ANCHORS, other=1.0)
        # Of the weights: sum of w (v - blended) times the logit's slope, which the background has none of.
        pull = tl.where(member[None, :] < ANCHORS, weight * (v - blended[:, None]) * (-2.0 / variance), 0.0)
        gx = tl.load(gradient + row, mask=fits, other=0.0) * flip[None, :]
        gy = tl.load(gradient + n_rows + row, mask=fits, other=0.0)
        gz = tl.load(gradient + 2 * n_rows + row, mask=fits, other=0.0)
        tl.store(out_gradient + 3 * at, tl.sum(weight * gx + pull * dx, axis=1), mask=inside)
        tl.store(out_gradient + 3 * at + 1, tl.sum(weight * gy + pull * dy, axis=1), mask=inside)
        tl.store(out_gradient + 3 * at + 2, tl.sum(weight * gz + pull * dz, axis=1), mask=inside)


@triton.jit
def blend_backward_kernel(
    points,
    anchors,
    flips,
    bits,
    base,
    value,
    gradient,
    by_out,
    by_out_gradient,
    scale,
    by_value,
    by_gradient,
    by_offset,
    n_points,
    n_blocks,
    n_rows,
    variance,
    background,
    POINTS: tl.constexpr,
    MEMBERS: tl.constexpr,
    ANCHORS: tl.constexpr,
):
    """Give what a loss's slopes by the blend say of each row: by its value, its gradient, and its offset in weights."""
    block = tl.program_id(0)
    head, first = block // n_blocks, (block % n_blocks) * POINTS
    dx, dy, dz = _place(points, anchors, head, first, n_points, POINTS, MEMBERS, ANCHORS)
    used, row = _rows(bits, base, block, n_blocks, n_points, POINTS, MEMBERS, ANCHORS)
    weight = _softmax(dx, dy, dz, variance, background, used, MEMBERS, ANCHORS)
    fits = used & (row < n_rows)
    member = tl.arange(0, MEMBERS)
    flip = tl.load(flips + member, mask=member <= ANCHORS, other=1.0)[None, :]
    v = tl.load(value + row, mask=fits, other=0.0)
    gx = tl.load(gradient + row, mask=fits, other=0.0) * flip
    gy = tl.load(gradient + n_rows + row, mask=fits, other=0.0)
    gz = tl.load(gradient + 2 * n_rows + row, mask=fits, other=0.0)
    point = first + tl.arange(0, POINTS)
    inside = point < n_points
    at = head * n_points + point
    factor = tl.load(scale)
    s = tl.load(by_out + at, mask=inside, other=0.0) * factor
    x = tl.load(by_out_gradient + 3 * at, mask=inside, other=0.0) * factor
    y = tl.load(by_out_gradient + 3 * at + 1, mask=inside, other=0.0) * factor
    z = tl.load(by_out_gradient + 3 * at + 2, mask=inside, other=0.0) * factor
    # In the names of the derivation: h = slope . G, k = g . G, d = v - blended; see `ensemble.py`.
    steep = tl.where(member[None, :] < ANCHORS, -2.0 / variance, 0.0) + 0.0 * weight
    h = steep * (dx * x[:, None] + dy * y[:, None] + dz * z[:, None])
    k = gx * x[:, None] + gy * y[:, None] + gz * z[:, None]
    d = v - tl.sum(weight * v, axis=1)[:, None]
    mean_h = tl.sum(weight * h, axis=1)[:, None]
    tl.store(by_value + row, weight * (s[:, None] + h - mean_h), mask=fits)
    tl.store(by_gradient + row, weight * x[:, None] * flip, mask=fits)
    tl.store(by_gradient + n_rows + row, weight * y[:, None], mask=fits)
    tl.store(by_gradient + 2 * n_rows + row, weight * z[:, None], mask=fits)
    q = d * h + k
    by_logit = weight * (d * (s[:, None] - mean_h) + q - tl.sum(weight * q, axis=1)[:, None]) * steep
    by_slope = weight * d * steep
    tl.store(by_offset + row, by_logit * dx + by_slope * x[:, None], mask=fits)
    tl.store(by_offset + n_rows + row, by_logit * dy + by_slope * y[:, None], mask=fits)
    tl.store(by_offset + 2 * n_rows + row, by_logit * dz + by_slope * z[:, None], mask=fits)


@triton.jit
def gather_kernel(
    bits,
    base,
    by_place,
    by_points,
    n_points,
    n_blocks,
    n_rows,
    POINTS: tl.constexpr,
    MEMBERS: tl.constexpr,
    ANCHORS: tl.constexpr,
):
    """Sum what the rows of each point say of its place."""
    block = tl.program_id(0)
    head, first = block // n_blocks, (block % n_blocks) * POINTS
    used, row = _rows(bits, base, block, n_blocks, n_points, POINTS, MEMBERS, ANCHORS)
    fits = used & (row < n_rows)
    point = first + tl.arange(0, POINTS)
    at = 3 * (head * n_points + point)
    for axis in tl.static_range(3):
        total = tl.sum(tl.load(by_place + axis * n_rows + row, mask=fits, other=0.0), axis=1)
        tl.store(by_points + at + axis, total, mask=point < n_points)
