"""Small fully connected networks, many of one shape side by side, whose codes are folded into biases.

A network takes a point and a code, repeats both once in its middle (a skip connection, scaled by 1/sqrt(2)), and uses
softplus with beta 100 (DeepSDF, Park et al. 2019, as NPHM has it). A code is the same for all points of a head, so its
products with the weights are computed once a head and added as a bias: the networks then see three numbers a point
instead of 99. Derivatives by the point are written out as ordinary operations next to the values: their own
derivatives need one backward pass and no second graph. Rows are points of any heads, sorted by network.

This is the core that a fused kernel can replace: the fields use `fold`, `values` and `values_and_jacobian` only.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

SOFTPLUS_BETA = 100.0
BLOCK_ROWS = 512
SKIP_SCALE = 2**-0.5
"""What both inputs of the skip connection are multiplied by."""


@dataclass(frozen=True)
class RowGroups:
    """Which network and which code each row of a call belongs to.

    Rows of a network lie together. In a call with `blocks` each network's rows fill whole blocks of BLOCK_ROWS (rows
    that only fill up are evaluated and not used), so that one batched product serves all networks: on a GPU that beats
    one product a network. Otherwise `starts` tells where each network's rows begin.
    """

    starts: tuple[int, ...]
    """Row at which each network's rows begin, and the number of rows; empty in a call with blocks."""
    condition: Int[Tensor, " n_rows"] | None
    """Row of the folded codes; None where the rows of each code are equally many and lie together."""
    blocks: Int[Tensor, " n_blocks"] | None = None
    """Network of each block."""


@dataclass(frozen=True)
class FoldedCodes:
    """What codes add to two of the layers."""

    first: Float[Tensor, "n_conditions n_hidden"]
    skip: Float[Tensor, "n_conditions n_hidden"]


class StackedNetworks(nn.Module):
    """`n_networks` networks of one shape, with weights of their own."""

    def __init__(self, n_networks: int, n_point: int, n_code: int, n_out: int, n_hidden: int, n_layers: int) -> None:
        """Make networks with PyTorch's usual initial weights, from its global generator."""
        super().__init__()
        if n_hidden <= n_point + n_code:
            raise ValueError(f"the width {n_hidden} must exceed the length of point and code, {n_point + n_code}")
        self.n_networks, self.n_point, self.n_code, self.n_out = n_networks, n_point, n_code, n_out
        self.skip = n_layers // 2
        n_in = n_point + n_code
        widths = [n_in, *[n_hidden] * (n_layers - 1), n_out]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer in range(n_layers):
            n_rows = widths[layer + 1] - (n_in if layer + 1 == self.skip else 0)
            bound = widths[layer] ** -0.5
            self.weights.append(nn.Parameter(torch.empty(n_networks, n_rows, widths[layer]).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(n_networks, n_rows).uniform_(-bound, bound)))

    @property
    def n_layers(self) -> int:
        """Number of linear layers."""
        return len(self.weights)

    def fold(self, codes: Float[Tensor, "n_heads n_members n_code"], network: Int[Tensor, " n_members"]) -> FoldedCodes:
        """Fold the code of each head's members into biases; `network` names the network of each member.

        Row `head * n_members + member` of the result belongs to that member of that head.
        """
        first, skip = self.weights[0][:, :, self.n_point :], self.weights[self.skip][:, :, -self.n_code :] * SKIP_SCALE
        by_first, by_skip = self.biases[0], self.biases[self.skip]
        if self.n_networks == 1:
            # One network is the same for all: no rows to take, and none to sum on the way back.
            rows = codes[:, 0]
            return FoldedCodes(
                functional.linear(rows, first[0], by_first[0]), functional.linear(rows, skip[0], by_skip[0])
            )
        with_first = torch.einsum("bmc,mhc->bmh", codes, first[network]) + by_first[network]
        with_skip = torch.einsum("bmc,mhc->bmh", codes, skip[network]) + by_skip[network]
        return FoldedCodes(with_first.flatten(0, 1), with_skip.flatten(0, 1))

    def fold_rows(self, codes: Float[Tensor, "n_rows n_code"], groups: RowGroups) -> FoldedCodes:
        """Fold one code a row: cheaper than `fold` where there are fewer rows than members of all heads.

        The result goes with groups whose `condition` is None.
        """
        first = _grouped(codes, self.weights[0][:, :, self.n_point :], groups, self.biases[0])
        skip = _grouped(
            codes, self.weights[self.skip][:, :, -self.n_code :] * SKIP_SCALE, groups, self.biases[self.skip]
        )
        return FoldedCodes(first, skip)

    def values(
        self, points: Float[Tensor, "n_rows n_point"], codes: FoldedCodes, groups: RowGroups
    ) -> Float[Tensor, "n_rows n_out"]:
        """Evaluate all rows."""
        if _stays_in_caches(points, groups):
            from nphm_core.models.row_values import row_values

            return row_values(self, points, codes, groups)
        activation = points
        for layer in range(self.n_layers - 1):
            product, bias = self._linear(layer, activation, points, codes, groups)
            activation = functional.softplus(product if bias is None else product + bias, beta=SOFTPLUS_BETA)
        return self._linear(self.n_layers - 1, activation, points, codes, groups)[0]

    def values_and_jacobian(
        self, points: Float[Tensor, "n_rows n_point"], codes: FoldedCodes, groups: RowGroups
    ) -> tuple[Float[Tensor, "n_rows n_out"], Float[Tensor, "n_rows n_out n_point"]]:
        """Evaluate all rows and their derivatives by the point; both can be differentiated once more."""
        activation, slopes = points, []
        for layer in range(self.n_layers - 1):
            product, bias = self._linear(layer, activation, points, codes, groups)
            activation, slope = softplus_and_slope(product if bias is None else product + bias)
            slopes.append(slope)
        value = self._linear(self.n_layers - 1, activation, points, codes, groups)[0]
        if self.n_networks == 1:
            return value, self._pulled_back_together(slopes)
        rows = [self._pulled_back(out, slopes, groups) for out in range(self.n_out)]
        return value, torch.stack(rows, dim=1)

    def _pulled_back_together(self, slopes: list[Tensor]) -> Float[Tensor, "n_rows n_out n_point"]:
        """Pull all outputs of one network back at once: the same products in fewer calls."""
        by_activation: Tensor = self.weights[-1][0, :, None]
        by_skip: Tensor | None = None
        for layer in range(self.n_layers - 2, 0, -1):
            weight = self.weights[layer][0]
            by_pre = by_activation * slopes[layer]
            if layer == self.skip:
                width = weight.shape[1] - self.n_point - self.n_code
                both = by_pre @ (weight[:, : width + self.n_point] * SKIP_SCALE)
                by_activation, by_skip = both.split([width, self.n_point], dim=2)
            else:
                by_activation = by_pre @ weight
        by_point = (by_activation * slopes[0]) @ self.weights[0][0, :, : self.n_point]
        return (by_point if by_skip is None else by_point + by_skip).transpose(0, 1)

    def _pulled_back(self, out: int, slopes: list[Tensor], groups: RowGroups) -> Float[Tensor, "n_rows n_point"]:
        # From the last layer to the first: the derivative of one output by each layer's input.
        by_activation = _repeated(self.weights[-1][:, out], groups)
        by_point = None
        for layer in range(self.n_layers - 2, -1, -1):
            by_pre = by_activation * slopes[layer]
            if layer == self.skip:
                width = self.weights[layer].shape[2] - self.n_point - self.n_code
                weight = self.weights[layer][:, :, : width + self.n_point].transpose(1, 2) * SKIP_SCALE
                by_activation, by_point = _grouped(by_pre, weight, groups).split([width, self.n_point], dim=1)
            elif layer:
                by_activation = _grouped(by_pre, self.weights[layer].transpose(1, 2), groups)
            else:
                first = self.weights[0][:, :, : self.n_point].transpose(1, 2)
                by_first = _grouped(by_pre, first, groups)
                by_point = by_first if by_point is None else by_point + by_first
        return by_point

    def _linear(
        self, layer: int, activation: Tensor, points: Tensor, codes: FoldedCodes, groups: RowGroups
    ) -> tuple[Float[Tensor, "n_rows n_hidden"], Float[Tensor, "n_rows n_hidden"] | None]:
        """Give a layer's products, and the bias that a code adds to them where it does."""
        weight = self.weights[layer]
        if layer == 0:
            product = _grouped(points, weight[:, :, : self.n_point], groups)
            return product, _code_bias(codes.first, groups, len(points))
        if layer == self.skip:
            wide = torch.cat([activation, points], dim=1)
            product = _grouped(wide, weight[:, :, : wide.shape[1]] * SKIP_SCALE, groups)
            return product, _code_bias(codes.skip, groups, len(points))
        return _grouped(activation, weight, groups, self.biases[layer]), None


def softplus_and_slope(
    pre: Float[Tensor, "n_rows n_hidden"],
) -> tuple[Float[Tensor, "n_rows n_hidden"], Float[Tensor, "n_rows n_hidden"]]:
    """Give softplus and its derivative; both can be differentiated once, in one pass over memory on a GPU."""
    activation, slope = _SoftplusAndSlope.apply(pre)
    return activation, slope


class _SoftplusAndSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pre):
        activation, slope = _on_device(pre, _softplus_forward)(pre)
        ctx.save_for_backward(slope)
        return activation, slope

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_activation, by_slope):
        (slope,) = ctx.saved_tensors
        return _on_device(slope, _softplus_backward)(slope, by_activation, by_slope)


def _softplus_forward(pre: Tensor) -> tuple[Tensor, Tensor]:
    return functional.softplus(pre, beta=SOFTPLUS_BETA), torch.sigmoid(SOFTPLUS_BETA * pre)


def _softplus_backward(slope: Tensor, by_activation: Tensor, by_slope: Tensor) -> Tensor:
    return by_activation * slope + by_slope * (SOFTPLUS_BETA * slope * (1 - slope))


def _on_device(tensor: Tensor, function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function, fused into one kernel where the tensor lies on a GPU that PyTorch can compile for."""
    return _fused(function) if tensor.is_cuda and _can_fuse() else function


@cache
def _fused(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def _stays_in_caches(points: Tensor, groups: RowGroups) -> bool:
    """Tell whether values alone are asked for, on a CPU; in float64 and for slopes the plain operations serve."""
    plain = torch.is_grad_enabled() or groups.blocks is not None or points.dtype != torch.float32
    return not plain and points.device.type == "cpu" and _has_numba()


@cache
def _has_numba() -> bool:
    # A machine that trains need not have it.
    return importlib.util.find_spec("numba") is not None


@cache
def _can_fuse() -> bool:
    return importlib.util.find_spec("triton") is not None


def _repeated(rows: Float[Tensor, "n_networks n_hidden"], groups: RowGroups) -> Float[Tensor, "n_rows n_hidden"]:
    """Repeat each network's row for all of its rows."""
    if groups.blocks is not None:
        return rows[groups.blocks][:, None].expand(-1, BLOCK_ROWS, -1).flatten(0, 1)
    counts = [b - a for a, b in pairwise(groups.starts)]
    return torch.cat([rows[k].expand(n, -1) for k, n in enumerate(counts)])


def _code_bias(bias: Tensor, groups: RowGroups, n_rows: int) -> Float[Tensor, "n_rows n_hidden"]:
    if groups.condition is not None:
        return bias.index_select(0, groups.condition)
    return bias[:, None].expand(-1, n_rows // len(bias), -1).flatten(0, 1)


def _grouped(rows: Tensor, weight: Tensor, groups: RowGroups, bias: Tensor | None = None) -> Tensor:
    """Multiply rows with the weights of their network, and add its bias."""
    if len(weight) == 1 and groups.blocks is None:
        return functional.linear(rows, weight[0], None if bias is None else bias[0])
    if groups.blocks is not None:
        return _BlockLinear.apply(rows, weight, bias, groups.blocks)
    return _GroupedLinear.apply(rows, weight, bias, groups.starts)


class _BlockLinear(torch.autograd.Function):
    """One batched product for all blocks; what the blocks of a network give to its weights is summed by a product."""

    @staticmethod
    def forward(ctx, rows, weight, bias, blocks):
        ctx.save_for_backward(rows, weight, blocks)
        ctx.has_bias = bias is not None
        blocked = rows.view(len(blocks), BLOCK_ROWS, -1)
        used = weight.index_select(0, blocks).transpose(1, 2)
        if bias is None:
            return torch.bmm(blocked, used).flatten(0, 1)
        return torch.baddbmm(bias.index_select(0, blocks)[:, None], blocked, used).flatten(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_out):
        rows, weight, blocks = ctx.saved_tensors
        needs_rows, needs_weight, needs_bias, _ = ctx.needs_input_grad
        blocked = by_out.reshape(len(blocks), BLOCK_ROWS, -1)
        by_rows = by_weight = by_bias = None
        if needs_rows:
            by_rows = torch.bmm(blocked, weight.index_select(0, blocks)).flatten(0, 1)
        if not (needs_weight or needs_bias):
            # Networks that are not trained, as in a fit.
            return by_rows, None, None, None
        of_network = functional.one_hot(blocks, len(weight)).to(by_out.dtype).t()
        if needs_weight:
            by_block = torch.bmm(blocked.transpose(1, 2), rows.view(len(blocks), BLOCK_ROWS, -1))
            by_weight = (of_network @ by_block.flatten(1)).view(weight.shape)
        if needs_bias and ctx.has_bias:
            by_bias = of_network @ blocked.sum(dim=1)
        return by_rows, by_weight, by_bias, None


class _GroupedLinear(torch.autograd.Function):
    """Multiply sorted rows with the weights of their network: one matrix product a network, none for empty ones."""

    @staticmethod
    def forward(ctx, rows, weight, bias, starts):
        ctx.save_for_backward(rows, weight)
        ctx.starts, ctx.has_bias = starts, bias is not None
        out = rows.new_empty(len(rows), weight.shape[1])
        for k, (a, b) in enumerate(pairwise(starts)):
            if a == b:
                continue
            if bias is None:
                torch.mm(rows[a:b], weight[k].t(), out=out[a:b])
            else:
                torch.addmm(bias[k], rows[a:b], weight[k].t(), out=out[a:b])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_out):
        rows, weight = ctx.saved_tensors
        needs_rows, needs_weight, needs_bias, _ = ctx.needs_input_grad
        by_rows = torch.empty_like(rows) if needs_rows else None
        by_weight = torch.zeros_like(weight) if needs_weight else None
        by_bias = weight.new_zeros(weight.shape[:2]) if needs_bias and ctx.has_bias else None
        by_out = by_out.contiguous()
        for k, (a, b) in enumerate(pairwise(ctx.starts)):
            if a == b:
                continue
            if by_rows is not None:
                torch.mm(by_out[a:b], weight[k], out=by_rows[a:b])
            if by_weight is not None:
                torch.mm(by_out[a:b].t(), rows[a:b], out=by_weight[k])
            if by_bias is not None:
                torch.sum(by_out[a:b], dim=0, out=by_bias[k])
        return by_rows, by_weight, by_bias, None
