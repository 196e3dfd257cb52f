"""What a training step does beside its network, on a GPU by one kernel where PyTorch's operations take dozens.

Each has a slow twin of plain operations, from which it differs by rounding: `PairSamples.draw`, `expression_terms`,
`Codebook.lookup` and `Codebook.move`, and PyTorch's clipping and AdamW. On small tensors a launch costs more than the
work.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from nphm_core.training.coded_meshes import NORMAL_STEPS, TRUST_STEPS
from nphm_core.training.optimisers import BETA1, BETA2, EPSILON

_NORMAL_STEPS, _TRUST_STEPS = tl.constexpr(NORMAL_STEPS), tl.constexpr(TRUST_STEPS)
_MIN_LENGTH = tl.constexpr(1e-12)
_BLOCK, _POINTS, _PAIRS, _WEIGHTS = 256, 1024, 64, 1024
_LOG_BETA1, _LOG_BETA2 = tl.constexpr(math.log2(BETA1)), tl.constexpr(math.log2(BETA2))
_BETA1, _BETA2, _EPSILON = tl.constexpr(BETA1), tl.constexpr(BETA2), tl.constexpr(EPSILON)


@dataclass(frozen=True)
class TermWeights:
    """What the terms of the second stage are multiplied with."""

    pairs: float
    codes: float
    zero: float


@triton.jit
def _unit(x, y, z):
    length = tl.maximum(tl.sqrt(x * x + y * y + z * z), _MIN_LENGTH)
    return x / length, y / length, z / length


@triton.jit
def _unfolded(code_x, code_y):
    """Decode a normal; see `decode_octahedron`."""
    x, y = code_x.to(tl.float32) / _NORMAL_STEPS, code_y.to(tl.float32) / _NORMAL_STEPS
    z = 1.0 - (tl.abs(x) + tl.abs(y))
    beyond = tl.maximum(-z, 0.0)
    x -= tl.where(x > 0, beyond, tl.where(x < 0, -beyond, 0.0))
    y -= tl.where(y > 0, beyond, tl.where(y < 0, -beyond, 0.0))
    return _unit(x, y, z)


@triton.jit
def pairs_kernel(
    scans,
    topology,
    faces,
    cumulative,
    vertex,
    weight,
    low,
    step,
    fraction,
    random,
    normal,
    std,
    sides,
    trust,
    n_pairs,
    n_half,
    n_faces,
    n_vertices,
    n_sides,
    N_STD: tl.constexpr,
    SEARCHES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Pairs of one scan; `sides` receives those of all scans on the canonical mesh, then those on the posed one."""
    scan = tl.program_id(0)
    pair = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = pair < n_pairs
    row = tl.load(scans + scan)
    by_side = (pair >= n_half).to(tl.int32)
    wanted = tl.load(fraction + (scan * 2 + by_side) * n_half + pair - by_side * n_half, mask=inside, other=0.0)
    # The first triangle up to which there is more area than wanted.
    table = cumulative + (row * 2 + by_side) * n_faces
    face, end = tl.zeros((BLOCK,), dtype=tl.int32), tl.zeros((BLOCK,), dtype=tl.int32) + n_faces
    for _ in range(SEARCHES):
        middle, is_open = (face + end) // 2, face < end
        is_less = tl.load(table + middle, mask=inside & is_open, other=2.0) <= wanted
        face = tl.where(is_open & is_less, middle + 1, face)
        end = tl.where(is_open & (is_less == 0), middle, end)
    corners = faces + (tl.load(topology + row) * n_faces + face) * 3

    at = random + scan * 3 * n_pairs + pair
    root, second = tl.sqrt(tl.load(at, mask=inside, other=0.0)), tl.load(at + n_pairs, mask=inside, other=0.0)
    chosen = tl.minimum((tl.load(at + 2 * n_pairs, mask=inside, other=0.0) * N_STD).to(tl.int32), N_STD - 1)
    offset = tl.load(std + chosen) * tl.load(normal + scan * n_pairs + pair, mask=inside, other=0.0)
    trusted = tl.zeros((BLOCK,), dtype=tl.float32)
    for side in tl.static_range(2):
        px, py, pz = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
        nx, ny, nz = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
        for k in tl.static_range(3):
            if k == 0:
                share = 1.0 - root
            elif k == 1:
                share = root * (1.0 - second)
            else:
                share = root * second
            corner = tl.load(corners + k, mask=inside, other=0)
            code = vertex + ((row * 2 + side) * n_vertices + corner) * 5
            px += share * tl.load(code, mask=inside, other=0).to(tl.float32)
            py += share * tl.load(code + 1, mask=inside, other=0).to(tl.float32)
            pz += share * tl.load(code + 2, mask=inside, other=0).to(tl.float32)
            x, y, z = _unfolded(tl.load(code + 3, mask=inside, other=0), tl.load(code + 4, mask=inside, other=0))
            nx += share * x
            ny += share * y
            nz += share * z
            if side == 0:
                own = tl.load(weight + row * n_vertices + corner, mask=inside, other=0).to(tl.float32)
                trusted += share * (own / _TRUST_STEPS)
        nx, ny, nz = _unit(nx, ny, nz)
        out = sides + side * n_sides + (scan * n_pairs + pair) * 3
        tl.store(out, tl.load(low + row * 3) + px * tl.load(step + row * 3) + offset * nx, mask=inside)
        tl.store(out + 1, tl.load(low + row * 3 + 1) + py * tl.load(step + row * 3 + 1) + offset * ny, mask=inside)
        tl.store(out + 2, tl.load(low + row * 3 + 2) + pz * tl.load(step + row * 3 + 2) + offset * nz, mask=inside)
    tl.store(trust + scan * n_pairs + pair, trusted, mask=inside)


@triton.jit
def terms_kernel(
    values,
    source,
    target,
    weight,
    codes,
    terms,
    totals,
    n_scans,
    n_pairs,
    n_points,
    n_code,
    weight_pairs,
    weight_codes,
    weight_zero,
    N_OUT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A scan's part of each term and of their weighted sum, and its sum of trust."""
    scan = tl.program_id(0)
    pairs, zero, total = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    length = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n_points, BLOCK):
        point = start + tl.arange(0, BLOCK)
        is_pair, is_space = point < n_pairs, (point >= n_pairs) & (point < n_points)
        own = tl.load(weight + scan * n_pairs + point, mask=is_pair, other=0.0)
        total += own
        for k in tl.static_range(N_OUT):
            value = tl.load(values + (scan * n_points + point) * N_OUT + k, mask=point < n_points, other=0.0)
            error = value
            if k < 3:
                at = (scan * n_pairs + point) * 3 + k
                error += tl.load(source + at, mask=is_pair, other=0.0) - tl.load(target + at, mask=is_pair, other=0.0)
                zero += tl.where(is_space, value * value, 0.0)
            pairs += own * error * error
    for start in range(0, n_code, BLOCK):
        c = start + tl.arange(0, BLOCK)
        code = tl.load(codes + scan * n_code + c, mask=c < n_code, other=0.0)
        length += code * code
    weighed = tl.sum(total)
    tl.store(totals + scan, weighed)
    scale = 1.0 / n_scans
    of_pairs = scale * tl.sum(pairs) / N_OUT / tl.where(weighed > 0, weighed, 1.0)
    of_codes = scale * tl.sum(length)
    of_zero = scale * tl.sum(zero) / (3 * tl.maximum(n_points - n_pairs, 1))
    tl.store(terms + scan, of_pairs)
    tl.store(terms + n_scans + scan, of_codes)
    tl.store(terms + 2 * n_scans + scan, of_zero)
    tl.store(terms + 3 * n_scans + scan, weight_pairs * of_pairs + weight_codes * of_codes + weight_zero * of_zero)


@triton.jit
def terms_back_kernel(
    by_terms,
    values,
    source,
    target,
    weight,
    codes,
    totals,
    by_values,
    by_codes,
    n_scans,
    n_pairs,
    n_points,
    n_code,
    weight_pairs,
    weight_codes,
    weight_zero,
    N_OUT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Slopes by values and codes."""
    scan = tl.program_id(0)
    scale, by_total = 2.0 / n_scans, tl.load(by_terms + 3)
    by_pairs = scale * (tl.load(by_terms) + weight_pairs * by_total) / N_OUT
    by_length = scale * (tl.load(by_terms + 1) + weight_codes * by_total)
    by_zero = scale * (tl.load(by_terms + 2) + weight_zero * by_total) / (3 * tl.maximum(n_points - n_pairs, 1))
    weighed = tl.load(totals + scan)
    by_pairs = by_pairs / tl.where(weighed > 0, weighed, 1.0)
    point = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_pair = point < n_pairs
    own = by_pairs * tl.load(weight + scan * n_pairs + point, mask=is_pair, other=0.0)
    for k in tl.static_range(N_OUT):
        at_value = (scan * n_points + point) * N_OUT + k
        slope = tl.load(values + at_value, mask=point < n_points, other=0.0)
        if k < 3:
            at = (scan * n_pairs + point) * 3 + k
            error = tl.load(source + at, mask=is_pair, other=0.0) - tl.load(target + at, mask=is_pair, other=0.0)
            slope = tl.where(is_pair, own * (slope + error), by_zero * slope)
        else:
            slope = own * slope
        tl.store(by_values + at_value, slope, mask=point < n_points)
    if tl.program_id(1) == 0:
        for start in range(0, n_code, BLOCK):
            c = start + tl.arange(0, BLOCK)
            code = tl.load(codes + scan * n_code + c, mask=c < n_code, other=0.0)
            tl.store(by_codes + scan * n_code + c, by_length * code, mask=c < n_code)


class PointTerms(torch.autograd.Function):
    """Terms of the second stage, in their order, given the network's values at pairs and at points in space."""

    @staticmethod
    def forward(ctx, values, codes, source, target, weight, weights: TermWeights):
        """Evaluate the terms of all scans, and sum."""
        n_scans, n_pairs = weight.shape
        given = [t.contiguous() for t in (values, source, target, weight, codes)]
        terms, totals = values.new_empty(4, n_scans), values.new_empty(n_scans)
        sizes = (n_scans, n_pairs, values.shape[1], codes.shape[1])
        ctx.numbers = (*sizes, weights.pairs, weights.codes, weights.zero)
        terms_kernel[(n_scans,)](*given, terms, totals, *ctx.numbers, N_OUT=values.shape[2], BLOCK=_POINTS, num_warps=8)
        ctx.save_for_backward(*given, totals)
        return terms.sum(dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_terms):
        """Give the slopes by values and codes; the rest are data."""
        values, source, target, weight, codes, totals = ctx.saved_tensors
        by_values, by_codes = torch.empty_like(values), torch.empty_like(codes)
        terms_back_kernel[(len(values), triton.cdiv(values.shape[1], _BLOCK))](
            by_terms.contiguous(), values, source, target, weight, codes, totals, by_values, by_codes, *ctx.numbers,
            N_OUT=values.shape[2], BLOCK=_BLOCK,
        )  # fmt: skip
        return by_values, by_codes, None, None, None, None


@triton.jit
def lookup_kernel(table, rows, out, n_code, limit, epsilon, BLOCK: tl.constexpr):
    """Take a row, cut it where it is too long, and put it back."""
    row, k = tl.load(rows + tl.program_id(0)), tl.arange(0, BLOCK)
    code = tl.load(table + row * n_code + k, mask=k < n_code, other=0.0)
    norm = tl.sqrt(tl.sum(code * code))
    code = tl.where(norm > limit, code * (limit / (norm + epsilon)), code)
    tl.store(table + row * n_code + k, code, mask=k < n_code)
    tl.store(out + tl.program_id(0) * n_code + k, code, mask=k < n_code)


@triton.jit
def _moments(one, two, slope):
    """Give Adam's two moments after a slope."""
    return one + (1.0 - _BETA1) * (slope - one), two + (1.0 - _BETA2) * (slope * slope - two)


@triton.jit
def move_kernel(codes, first, second, rows, gradient, norm, size, n_code, max_norm, epsilon, BLOCK: tl.constexpr):
    """Clip a row's gradient in place, and move the row and its moments, unless the gradient is zero throughout."""
    row, k = tl.load(rows + tl.program_id(0)), tl.arange(0, BLOCK)
    fits, at = k < n_code, row * n_code + k
    own = gradient + tl.program_id(0) * n_code + k
    slope = tl.load(own, mask=fits, other=0.0)
    used = tl.max((slope != 0).to(tl.int32)) > 0
    slope = slope * tl.minimum(max_norm / (tl.load(norm) + epsilon), 1.0)
    tl.store(own, slope, mask=fits)
    one, two = tl.load(first + at, mask=fits, other=0.0), tl.load(second + at, mask=fits, other=0.0)
    one, two = _moments(one, two, slope)
    moved = tl.load(codes + at, mask=fits, other=0.0) + tl.load(size) * one / (tl.sqrt(two) + _EPSILON)
    tl.store(first + at, one, mask=fits & used)
    tl.store(second + at, two, mask=fits & used)
    tl.store(codes + at, moved, mask=fits & used)


@triton.jit
def norms_kernel(gradients, steps, partials, STARTS: tl.constexpr, SIZES: tl.constexpr, BLOCK: tl.constexpr):
    """Sum the squares of a block of one of several tensors, and count each tensor's steps.

    STARTS are the tensors' first programs, and how many there are in all.
    """
    program, k = tl.program_id(0), tl.arange(0, BLOCK)
    for i in tl.static_range(len(SIZES)):
        if (program >= STARTS[i]) & (program < STARTS[i + 1]):
            at = (program - STARTS[i]) * BLOCK + k
            slope = tl.load(gradients[i] + at, mask=at < SIZES[i], other=0.0)
            tl.store(partials + program, tl.sum(slope * slope))
            if program == STARTS[i]:
                tl.store(steps[i], tl.load(steps[i]) + 1.0)


@triton.jit
def adamw_kernel(
    gradients,
    weights,
    first,
    second,
    steps,
    partials,
    rate,
    max_norm,
    epsilon,
    decay,
    STARTS: tl.constexpr,
    SIZES: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Move a block of one of several tensors, and its moments, along a gradient that is clipped by the norm of all."""
    program, k = tl.program_id(0), tl.arange(0, BLOCK)
    squares = tl.zeros((PARTS,), dtype=tl.float32)
    for start in range(0, STARTS[len(SIZES)], PARTS):
        part = start + tl.arange(0, PARTS)
        squares += tl.load(partials + part, mask=part < STARTS[len(SIZES)], other=0.0)
    clip = tl.minimum(max_norm / (tl.sqrt(tl.sum(squares)) + epsilon), 1.0)
    size = tl.load(rate)
    for i in tl.static_range(len(SIZES)):
        if (program >= STARTS[i]) & (program < STARTS[i + 1]):
            at = (program - STARTS[i]) * BLOCK + k
            fits, step = at < SIZES[i], tl.load(steps[i])
            slope = clip * tl.load(gradients[i] + at, mask=fits, other=0.0)
            one, two = tl.load(first[i] + at, mask=fits, other=0.0), tl.load(second[i] + at, mask=fits, other=0.0)
            one, two = _moments(one, two, slope)
            # What the moments lack of their means, as they began at zero.
            lack_one, lack_two = 1.0 - tl.exp2(step * _LOG_BETA1), 1.0 - tl.exp2(step * _LOG_BETA2)
            weight = (1.0 - size * decay) * tl.load(weights[i] + at, mask=fits, other=0.0)
            weight -= (size / lack_one) * one / (tl.sqrt(two) / tl.sqrt(lack_two) + _EPSILON)
            tl.store(first[i] + at, one, mask=fits)
            tl.store(second[i] + at, two, mask=fits)
            tl.store(weights[i] + at, weight, mask=fits)


def step_adamw(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: Sequence[Sequence[Tensor]],
    rate: Float[Tensor, ""],
    *,
    max_norm: float,
    epsilon: float,
    decay: float,
) -> None:
    """Do a step of AdamW on all weights in place; the gradients stay, and are clipped by the norm of all together.

    `state` are PyTorch's: numbers of steps, first and second moments of each weight. Its own step is one block of
    threads for 65,536 numbers, which leaves most of a GPU without work, and clipping takes a dozen launches before it.
    """
    sizes = tuple(weight.numel() for weight in weights)
    starts = (0, *accumulate(triton.cdiv(size, _WEIGHTS) for size in sizes))
    partials = weights[0].new_empty(starts[-1])
    constants = {"STARTS": starts, "SIZES": sizes, "BLOCK": _WEIGHTS}
    steps, first, second = map(tuple, state)
    norms_kernel[(starts[-1],)](tuple(gradients), steps, partials, **constants)
    adamw_kernel[(starts[-1],)](
        tuple(gradients), tuple(weights), first, second, steps, partials, rate, max_norm, epsilon, decay,
        PARTS=1024, **constants,
    )  # fmt: skip


def look_up(
    table: Float[Tensor, "n_rows n_code"], rows: Int[Tensor, " n_batch"], limit: float, epsilon: float
) -> Float[Tensor, "n_batch n_code"]:
    """Give rows of a table, in which those longer than the limit are cut first."""
    n = table.shape[1]
    out = table.new_empty(len(rows), n)
    lookup_kernel[(len(rows),)](table, rows, out, n, limit, epsilon, BLOCK=triton.next_power_of_2(n))
    return out


def move(
    tables: tuple[Tensor, Tensor, Tensor], rows: Tensor, gradient: Tensor, size: Tensor, max_norm: float, epsilon: float
) -> None:
    """Do a step of Adam on rows of codes, given with their first and second moments; the gradient is clipped."""
    n = gradient.shape[1]
    norm = torch.linalg.vector_norm(gradient)
    move_kernel[(len(rows),)](
        *tables, rows, gradient, norm, size, n, max_norm, epsilon, BLOCK=triton.next_power_of_2(n)
    )


def draw_pairs(
    meshes: tuple[Tensor, ...], scan: Tensor, numbers: tuple[Tensor, Tensor, Tensor], std: Tensor
) -> tuple[Float[Tensor, "2 n_scans n_pairs 3"], Float[Tensor, "n_scans n_pairs"]]:
    """Give points on both meshes of some scans and their trust.

    `meshes` are the tables of `PairSamples`: topologies, faces, cumulative areas, vertices, weights, lows and steps.
    `numbers` choose triangles, then places and offsets' deviations, then offsets.
    """
    fraction, random, normal = numbers
    n_scans, n_pairs = normal.shape
    n_faces, n_vertices = meshes[1].shape[1], meshes[4].shape[1]
    sides, trust = (random.new_empty(*shape) for shape in ((2, n_scans, n_pairs, 3), (n_scans, n_pairs)))
    pairs_kernel[(n_scans, triton.cdiv(n_pairs, _PAIRS))](
        scan, *meshes, fraction, random, normal, std, sides, trust,
        n_pairs, fraction.shape[2], n_faces, n_vertices, sides[0].numel(),
        N_STD=len(std), SEARCHES=n_faces.bit_length(), BLOCK=_PAIRS, num_warps=2,
    )  # fmt: skip
    return sides, trust
