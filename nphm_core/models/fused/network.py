"""Values of one wide network, and their derivatives by weights and codes, by kernels.

`NetworkValues` is one operation for PyTorch's autograd. It has no derivative by the points: in training these are data.
What the weights receive is a product of two tall matrices, which the vendor's library does well.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from nphm_core.models.fused import network_kernels as kernels
from nphm_core.models.networks import SKIP_SCALE

_LARGEST = 1.0
_ROWS, _COLUMNS = 128, 128
_DEPTH = 64
_LAUNCH = {"num_warps": 8, "num_stages": 3}


@dataclass(frozen=True)
class Shape:
    """What is constant in a network."""

    n_layers: int
    skip: int
    n_code: int
    per_head: int
    """Rows of each head."""


class NetworkValues(torch.autograd.Function):
    """Values of points (n_rows, 3) that lie head by head, given what each head's code adds to two layers."""

    @staticmethod
    def forward(ctx, points, first, skip, shape: Shape, *parameters):
        """Evaluate, and keep activations."""
        call = _Call(points.contiguous(), shape, parameters[: shape.n_layers], parameters[shape.n_layers :])
        out, kept = call.values(first.contiguous(), skip.contiguous())
        ctx.call, ctx.kept = call, kept
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_out):
        """Give a loss's slopes; what was kept is given back."""
        call, kept = ctx.call, ctx.kept
        ctx.call = ctx.kept = None
        first, skip, weights, biases = call.backward(kept, by_out.contiguous())
        return None, first, skip, None, *weights, *biases


class _Call:
    def __init__(self, points: Tensor, shape: Shape, weights: tuple[Tensor, ...], biases: tuple[Tensor, ...]) -> None:
        self.points, self.shape = points, shape
        self.weights, self.biases = [w[0] for w in weights], [b[0].contiguous() for b in biases]
        self.n_rows, self.n_skip = len(points), len(self.weights[shape.skip - 1])
        self.n_hidden = len(self.weights[0])

    def values(self, first: Tensor, skip: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Give the outputs, and what each layer but the first was given."""
        shape, n = self.shape, self.n_hidden
        a = self._empty(n)
        kernels.enter_kernel[self._grid(n)](
            self.points, self._place_weight(0), first, a, self.n_rows, shape.per_head, N=n, ROWS=_ROWS, COLUMNS=_COLUMNS
        )
        kept = [a]
        for layer in range(1, shape.n_layers - 1):
            kept.append(self._layer(layer, kept[-1], skip))
        out = torch.empty(self.n_rows, len(self.weights[-1]), device=a.device)
        weight = _padded(self.weights[-1].t(), n, 16).half()
        kernels.leave_kernel[(triton.cdiv(self.n_rows, _ROWS),)](
            kept[-1],
            weight,
            self.biases[-1],
            out,
            self.n_rows,
            K=n,
            N=out.shape[1],
            ROWS=_ROWS,
            BK=_depth(n),
            **_LAUNCH,
        )
        return out, kept

    def _layer(self, layer: int, a: Tensor, skip: Tensor) -> Tensor:
        shape = self.shape
        is_skip, appends = layer == shape.skip, layer + 1 == shape.skip
        n = len(self.weights[layer])
        out = self._empty(self._skip_width() if appends else n)
        k, stride = a.shape[1], _up(out.shape[1], _COLUMNS)
        weight = self.weights[layer]
        if is_skip:
            weight = weight[:, : self.n_skip] * SKIP_SCALE
        place = self._place_weight(layer) if is_skip else self.points
        kernels.linear_kernel[self._grid(out.shape[1])](
            a, _padded(weight.t(), _up(k, _DEPTH), stride).half(), skip if is_skip else self.biases[layer], self.points,
            place, out, self.n_rows, shape.per_head, SKIP=is_skip, APPEND=appends, K=k, N=n, WIDTH=out.shape[1],
            STRIDE=stride, ROWS=_ROWS, COLUMNS=_COLUMNS, BK=_depth(k), **_LAUNCH,
        )  # fmt: skip
        return out

    def backward(self, kept: list[Tensor], by_out: Tensor) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        """Give slopes by what the codes add, by weights and by biases."""
        shape, n = self.shape, self.n_hidden
        scale = (_LARGEST / by_out.abs().max().clamp_min(1e-30)).reshape(1)
        weights: list[Tensor] = [torch.zeros_like(w) for w in self.weights]
        biases: list[Tensor] = [torch.zeros_like(b) for b in self.biases]
        n_out = by_out.shape[1]
        weights[-1] = _tall_product(_wide(by_out * scale), kept[-1])[:n_out] / scale
        biases[-1] = by_out.sum(dim=0)
        z, sums = self._empty(n), self._sums(n)
        kernels.return_kernel[self._grid(n)](
            by_out, scale, self.weights[-1].contiguous(), kept[-1], z, sums, self.n_rows, N_OUT=n_out, N=n,
            ROWS=_ROWS, COLUMNS=_COLUMNS,
        )  # fmt: skip
        of_skip = z
        for layer in range(shape.n_layers - 2, 0, -1):
            a = kept[layer - 1]
            received = _tall_product(z, a)[: len(weights[layer])] / scale
            if layer == shape.skip:
                of_skip = z
                weights[layer][:, : self.n_skip + 3] = received[:, : self.n_skip + 3] * SKIP_SCALE
            else:
                weights[layer], biases[layer] = (
                    received[:, : weights[layer].shape[1]],
                    sums.sum(dim=0)[: len(received)] / scale,
                )
            z, sums = self._below(layer, z, a)
        weights[0][:, :3] = _tall_product(z, _wide(self.points))[:, :3] / scale
        by_codes = [part.view(-1, shape.per_head, n).sum(dim=1, dtype=torch.float32) / scale for part in (z, of_skip)]
        return by_codes[0], by_codes[1], [w[None] for w in weights], [b[None] for b in biases]

    def _below(self, layer: int, z: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        is_skip = layer == self.shape.skip
        weight = self.weights[layer][:, : self.n_skip] * SKIP_SCALE if is_skip else self.weights[layer]
        n, k, width = weight.shape[1], z.shape[1], a.shape[1]
        stride = _up(width, _COLUMNS)
        below, sums = self._empty(width), self._sums(width)
        kernels.back_kernel[self._grid(width)](
            z, _padded(weight, _up(k, _DEPTH), stride).half(), a, below, sums, self.n_rows, K=k, N=n, WIDTH=width,
            STRIDE=stride, ROWS=_ROWS, COLUMNS=_COLUMNS, BK=_depth(k), **_LAUNCH,
        )  # fmt: skip
        return below, sums

    def _place_weight(self, layer: int) -> Tensor:
        weight = self.weights[layer]
        if layer == 0:
            return weight[:, :3].t().contiguous()
        return (weight[:, self.n_skip : self.n_skip + 3] * SKIP_SCALE).t().contiguous()

    def _skip_width(self) -> int:
        return _up(self.n_skip + 3, 8)

    def _empty(self, width: int) -> Tensor:
        return torch.empty(self.n_rows, width, dtype=torch.float16, device=self.points.device)

    def _sums(self, width: int) -> Tensor:
        return torch.empty(triton.cdiv(self.n_rows, _ROWS), width, device=self.points.device)

    def _grid(self, width: int) -> tuple[int, int]:
        return triton.cdiv(self.n_rows, _ROWS), triton.cdiv(width, _COLUMNS)


def _wide(rows: Tensor) -> Tensor:
    """Give rows of eight numbers, which lie as fast products need them."""
    return torch.nn.functional.pad(rows, (0, 8 - rows.shape[1])).half()


def _tall_product(left: Tensor, right: Tensor) -> Tensor:
    """Give left' right with sums and result in float32."""
    if left.is_cuda:
        return torch.mm(left.t(), right, out_dtype=torch.float32)
    return left.float().t() @ right.float()


def _padded(weight: Tensor, n_rows: int, n_columns: int) -> Tensor:
    return torch.nn.functional.pad(weight, (0, n_columns - weight.shape[1], 0, n_rows - weight.shape[0])).contiguous()


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def _depth(k: int) -> int:
    return min(_DEPTH, max(16, 1 << (k - 1).bit_length()))
