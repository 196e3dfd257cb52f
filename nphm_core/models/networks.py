"""Small fully connected networks, many of one shape side by side, whose codes are folded into biases.

A network takes a point and a code, repeats both once in its middle (a skip connection, scaled by 1/sqrt(2)), and uses
softplus with beta 100 (DeepSDF, Park et al. 2019, as NPHM has it). A code is the same for all points of a head, so its
products with the weights are computed once a head and added as a bias: the networks then see three numbers a point
instead of 99. Derivatives by the point are written out as ordinary operations next to the values: their own
derivatives need one backward pass and no second graph. Rows are points of any heads, sorted by network.

This is the core that a fused kernel can replace: the fields use `fold`, `values` and `values_and_jacobian` only.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

SOFTPLUS_BETA = 100.0
_HALF = 2**-0.5


@dataclass(frozen=True)
class RowGroups:
    """Which network and which code each row of a call belongs to."""

    starts: tuple[int, ...]
    """Row at which each network's rows begin, and the number of rows: one more than there are networks."""
    condition: Int[Tensor, " n_rows"] | None
    """Row of the folded codes; None where the rows of each code are equally many and lie together."""


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
        first = self.weights[0][network, :, self.n_point :]
        skip = self.weights[self.skip][network, :, -self.n_code :] * _HALF
        with_first = torch.einsum("bmc,mhc->bmh", codes, first) + self.biases[0][network]
        with_skip = torch.einsum("bmc,mhc->bmh", codes, skip) + self.biases[self.skip][network]
        return FoldedCodes(with_first.flatten(0, 1), with_skip.flatten(0, 1))

    def values(
        self, points: Float[Tensor, "n_rows n_point"], codes: FoldedCodes, groups: RowGroups
    ) -> Float[Tensor, "n_rows n_out"]:
        """Evaluate all rows."""
        activation = points
        for layer in range(self.n_layers):
            pre = self._linear(layer, activation, points, codes, groups)
            activation = functional.softplus(pre, beta=SOFTPLUS_BETA) if layer + 1 < self.n_layers else pre
        return activation

    def values_and_jacobian(
        self, points: Float[Tensor, "n_rows n_point"], codes: FoldedCodes, groups: RowGroups
    ) -> tuple[Float[Tensor, "n_rows n_out"], Float[Tensor, "n_rows n_out n_point"]]:
        """Evaluate all rows and their derivatives by the point; both can be differentiated once more."""
        activation, slopes = points, []
        for layer in range(self.n_layers - 1):
            pre = self._linear(layer, activation, points, codes, groups)
            activation = functional.softplus(pre, beta=SOFTPLUS_BETA)
            slopes.append(torch.sigmoid(SOFTPLUS_BETA * pre))
        value = self._linear(self.n_layers - 1, activation, points, codes, groups)
        rows = [self._pulled_back(out, slopes, groups) for out in range(self.n_out)]
        return value, torch.stack(rows, dim=1)

    def _pulled_back(self, out: int, slopes: list[Tensor], groups: RowGroups) -> Float[Tensor, "n_rows n_point"]:
        # From the last layer to the first: the derivative of one output by each layer's input.
        last = self.weights[-1][:, out]
        by_activation = torch.cat([last[k].expand(n, -1) for k, n in _counts(groups)])
        by_point = None
        for layer in range(self.n_layers - 2, -1, -1):
            by_pre = by_activation * slopes[layer]
            if layer == self.skip:
                width = self.weights[layer].shape[2] - self.n_point - self.n_code
                weight = self.weights[layer][:, :, : width + self.n_point].transpose(1, 2) * _HALF
                by_activation, by_point = _grouped(by_pre, weight, groups.starts).split([width, self.n_point], dim=1)
            elif layer:
                by_activation = _grouped(by_pre, self.weights[layer].transpose(1, 2), groups.starts)
            else:
                first = self.weights[0][:, :, : self.n_point].transpose(1, 2)
                by_first = _grouped(by_pre, first, groups.starts)
                by_point = by_first if by_point is None else by_point + by_first
        return by_point

    def _linear(
        self, layer: int, activation: Tensor, points: Tensor, codes: FoldedCodes, groups: RowGroups
    ) -> Float[Tensor, "n_rows n_hidden"]:
        weight = self.weights[layer]
        if layer == 0:
            return _with_code_bias(_grouped(points, weight[:, :, : self.n_point], groups.starts), codes.first, groups)
        if layer == self.skip:
            wide = torch.cat([activation, points], dim=1)
            used = weight[:, :, : wide.shape[1]] * _HALF
            return _with_code_bias(_grouped(wide, used, groups.starts), codes.skip, groups)
        return _GroupedLinear.apply(activation, weight, self.biases[layer], groups.starts)


def _counts(groups: RowGroups) -> list[tuple[int, int]]:
    return [(k, b - a) for k, (a, b) in enumerate(pairwise(groups.starts))]


def _with_code_bias(pre: Tensor, bias: Tensor, groups: RowGroups) -> Tensor:
    if groups.condition is not None:
        return pre + bias[groups.condition]
    return (pre.unflatten(0, (len(bias), -1)) + bias[:, None]).flatten(0, 1)


def _grouped(rows: Tensor, weight: Tensor, starts: tuple[int, ...]) -> Tensor:
    return _GroupedLinear.apply(rows, weight, None, starts)


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
