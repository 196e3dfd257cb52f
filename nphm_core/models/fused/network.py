"""Values of one wide network, and their derivatives by weights and codes, by kernels.

`NetworkValues` is one operation for PyTorch's autograd. It has no derivative by the points: in training these are data.
What the weights receive is a product of two tall matrices, which the vendor's library does well. Slopes are divided by
the largest one of the outputs, so that half precision holds them; that is undone at once in the memory of all results.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from nphm_core.models.fused import network_kernels as kernels
from nphm_core.models.networks import SKIP_SCALE

_PLACE = int(kernels.PLACE_COLUMNS.value)


@dataclass(frozen=True)
class Tuning:
    """How the work is cut; results differ by rounding only."""

    products: Literal["pointers", "descriptors", "library"] = "pointers"
    """By a kernel that finishes the layer too, which loads by pointers or by descriptors of matrices (these serve cards
    since the H100), or by the vendor's library and a kernel behind it."""
    exact_sums: bool = False
    """Have the library's products in float32: with half precision they are rounded once more."""
    rows: int = 128
    """Of a tile; fewer where heads have fewer, so that none has rows of three heads."""
    columns: int = 128
    depth: int = 64
    """Terms of a product that are loaded at once."""
    warps: int = 8
    stages: int = 3
    max_registers: int | None = 128
    """Of a thread of a layer's way back: with no more than these two tiles share a processor, and few are short."""
    pass_columns: int = 64
    """Columns of a tile of kernels without a product."""
    pass_warps: int = 8


@dataclass(frozen=True)
class Shape:
    """What is constant in a network."""

    n_layers: int
    skip: int
    """Layer that is given the point and the code once more, with what the layer before it gives; at least the third."""
    per_head: int
    """Rows of each head, sixteen at least."""
    tuning: Tuning = Tuning()


class NetworkValues(torch.autograd.Function):
    """Values of points (n_rows, 3) that lie head by head, given each head's code."""

    @staticmethod
    def forward(ctx, points, codes, shape: Shape, *parameters):
        """Evaluate, and keep activations."""
        call = _Call(
            points.contiguous(), codes.contiguous(), shape, parameters[: shape.n_layers], parameters[shape.n_layers :]
        )
        out, kept = call.values()
        ctx.call, ctx.kept = call, kept
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_out):
        """Give a loss's slopes; what was kept is given back."""
        call, kept = ctx.call, ctx.kept
        ctx.call = ctx.kept = None
        codes, weights, biases = call.backward(kept, by_out.contiguous())
        return None, codes, None, *weights, *biases


class _Call:
    def __init__(
        self, points: Tensor, codes: Tensor, shape: Shape, weights: tuple[Tensor, ...], biases: tuple[Tensor, ...]
    ) -> None:
        self.points, self.codes, self.shape, self.tuning = points, codes, shape, shape.tuning
        self.weights, self.biases = [w[0].contiguous() for w in weights], [b[0].contiguous() for b in biases]
        self.n_rows, self.n_hidden, self.n_skip = len(points), len(self.weights[0]), len(self.weights[shape.skip - 1])
        self.tile_rows = min(self.tuning.rows, 1 << (shape.per_head.bit_length() - 1))
        self.halves = self._halves()

    def _halves(self) -> list[Tensor]:
        """Give the weights of all layers but the first and the last in half precision, with rows to fill up eight."""
        chosen = self.weights[1:-1]
        sizes = [_up(len(weight)) * weight.shape[1] for weight in chosen]
        flat = torch.zeros(sum(sizes), dtype=torch.float16, device=self.points.device)
        parts = [part.view(-1, w.shape[1]) for part, w in zip(flat.split(sizes), chosen, strict=True)]
        torch._foreach_copy_([part[: len(w)] for part, w in zip(parts, chosen, strict=True)], chosen)
        return [flat[:0], *parts]

    def values(self) -> tuple[Tensor, list[Tensor]]:
        """Give the outputs, and what each layer but the first was given."""
        shape, n, first = self.shape, self.n_hidden, self.weights[0]
        by_head = torch.addmm(self.biases[0], self.codes, first[:, 3:].t())
        kept = [self._empty(n) for _ in range(shape.n_layers - 1)]
        kept[shape.skip - 1] = with_places = self._empty(_up(self.n_skip) + _PLACE)
        kernels.enter_kernel[self._pass_grid(n)](
            self.points, first, by_head, kept[0], with_places[:, -_PLACE:], self.n_rows, shape.per_head,
            N=n, STRIDE=first.shape[1], WIDE=with_places.shape[1], **self._pass(),
        )  # fmt: skip
        for layer in range(1, shape.n_layers - 1):
            self._layer(layer, kept[layer - 1], kept[layer])
        last = self.weights[-1]
        out = torch.empty(self.n_rows, len(last), device=self.points.device)
        kernels.leave_kernel[(triton.cdiv(self.n_rows, 128),)](
            kept[-1], last, self.biases[-1], out, self.n_rows, K=n, N=len(last), ROWS=128, BK=_depth(n, 64), num_warps=8
        )
        return out, kept

    def _layer(self, layer: int, a: Tensor, out: Tensor) -> None:
        shape, half = self.shape, self.halves[layer]
        is_skip = layer == shape.skip
        n, k = len(self.weights[layer]), _up(self.n_skip) if is_skip else a.shape[1]
        bias = self._skip_bias() if is_skip else self.biases[layer]
        place = self.weights[layer][:, self.n_skip :]
        given = (bias, self.points, place, out, self.n_rows, shape.per_head, SKIP_SCALE)
        constants = {"SKIP": is_skip, "N": n, "WIDTH": len(half), "OUT_STRIDE": out.shape[1], "STRIDE": half.shape[1]}
        if self.tuning.products != "library":
            tile = self._launch(k)
            factors = self._factors(a[:, :k], half[:n, :k], (tile["COLUMNS"], tile["BK"]))
            kernels.linear_kernel[self._grid(len(half))](
                *factors, *given, K=k, IN_STRIDE=a.shape[1], **constants, **tile
            )
            return
        product = torch.empty_like(out, dtype=torch.float32) if self.tuning.exact_sums else out
        _multiply(a[:, :k], half[:, :k].t(), product[:, : len(half)])
        kernels.finish_kernel[self._pass_grid(len(half))](product, *given, **constants, **self._pass())

    def _skip_bias(self) -> Tensor:
        skip = self.shape.skip
        by_code = self.weights[skip][:, self.n_skip + 3 :].t()
        return torch.addmm(self.biases[skip], self.codes, by_code, alpha=SKIP_SCALE)

    def backward(self, kept: list[Tensor], by_out: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Give slopes by codes, by weights and by biases."""
        shape = self.shape
        largest = torch.linalg.vector_norm(by_out, ord=torch.inf)
        slopes, sums = _Slopes(self), _Sums(self)
        z, wide = self._empty(self.n_hidden), self._empty(16)
        top = shape.n_layers - 2
        kernels.return_kernel[self._pass_grid(self.n_hidden)](
            by_out, largest, self.weights[-1], kept[-1], z, wide, *sums.of(top),
            N_OUT=by_out.shape[1], N=self.n_hidden, **self._pass(),
        )  # fmt: skip
        slopes.weight(-1, wide, kept[-1])
        slopes.biases[-1] = by_out.sum(dim=0)
        for layer in range(top, 0, -1):
            slopes.weight(layer, z, kept[layer - 1])
            z = self._below(layer, z, kept[layer - 1], sums)
        slopes.first_weight(z, kept[shape.skip - 1])
        slopes.by_sums(sums)
        return slopes.finished(largest)

    def _below(self, layer: int, z: Tensor, a: Tensor, sums: "_Sums") -> Tensor:
        is_skip, half = layer == self.shape.skip, self.halves[layer]
        n = self.n_skip if is_skip else half.shape[1]
        below = self._empty(_up(n))
        given = (a, below, *sums.of(layer - 1), SKIP_SCALE if is_skip else 1.0)
        constants = {"N": n, "WIDTH": _up(n), "A_STRIDE": a.shape[1], "SUM_STRIDE": self.n_hidden}
        if self.tuning.products != "library":
            k, tile = z.shape[1], self._launch(z.shape[1])
            if self.tuning.max_registers is not None:
                tile["maxnreg"] = self.tuning.max_registers
            factors = self._factors(z, half[:k], (tile["BK"], tile["COLUMNS"]))
            kernels.back_kernel[self._grid(_up(n))](*factors, *given, K=k, STRIDE=half.shape[1], **constants, **tile)
            return below
        product = torch.empty_like(below, dtype=torch.float32) if self.tuning.exact_sums else below
        _multiply(z, half[:, : _up(n)], product)
        kernels.slope_kernel[self._pass_grid(_up(n))](product, *given, **constants, **self._pass())
        return below

    def _empty(self, width: int) -> Tensor:
        return torch.empty(self.n_rows, width, dtype=torch.float16, device=self.points.device)

    def _factors(self, left: Tensor, right: Tensor, block: tuple[int, int]) -> tuple[Any, Any]:
        """Give a product's factors as its kernel reads them, the second one in blocks."""
        if self.tuning.products == "pointers":
            return left, right
        rows = [self.tile_rows, _depth(left.shape[1], self.tuning.depth)]
        return TensorDescriptor.from_tensor(left, rows), TensorDescriptor.from_tensor(right, list(block))

    def _grid(self, width: int) -> tuple[int, int]:
        return triton.cdiv(width, self.tuning.columns), triton.cdiv(self.n_rows, self.tile_rows)

    def _launch(self, k: int) -> dict[str, int]:
        own = self.tuning
        tile = {"ROWS": self.tile_rows, "COLUMNS": own.columns, "BK": _depth(k, own.depth)}
        tile["DESCRIBED"] = own.products == "descriptors"
        return tile | {"num_warps": own.warps, "num_stages": own.stages}

    def _pass_grid(self, width: int) -> tuple[int, int]:
        return triton.cdiv(width, self.tuning.pass_columns), triton.cdiv(self.n_rows, self.tile_rows)

    def _pass(self) -> dict[str, int]:
        return {"ROWS": self.tile_rows, "COLUMNS": self.tuning.pass_columns, "num_warps": self.tuning.pass_warps}


class _Sums:
    """Sums of slopes over the rows of each tile: of all rows, or by heads in the two layers that codes reach."""

    def __init__(self, call: _Call) -> None:
        shape, rows, n = call.shape, call.tile_rows, call.n_hidden
        self._n_rows, self._per_head, self._skip = call.n_rows, shape.per_head, shape.skip
        self._n_tiles = triton.cdiv(call.n_rows, rows)
        # As many tiles as a head can have rows in; not every head fills the last one.
        self._n_slots = triton.cdiv(shape.per_head - 1, rows) + 1
        device = call.points.device
        self.ordinary = [layer for layer in range(1, shape.n_layers - 1) if layer != shape.skip]
        self.of_rows = torch.empty(len(self.ordinary), self._n_tiles, n, device=device)
        self.of_heads = torch.zeros(2, len(call.codes), self._n_slots, n, device=device)

    def of(self, layer: int) -> tuple[Tensor, int, int, int]:
        """Give what a kernel is told: where it stores, the number of rows, rows of a head, slots of a head."""
        if layer in (0, self._skip):
            return self.of_heads[int(layer > 0)], self._n_rows, self._per_head, self._n_slots
        return self.of_rows[self.ordinary.index(layer)], self._n_rows, self._n_rows, self._n_tiles


class _Slopes:
    """What weights, biases and codes receive, in one piece of memory."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        shapes = [t.shape for t in (*call.weights, *call.biases, call.codes)]
        # The products have some rows more; every piece begins where fast products can store it.
        sizes = [_up(s.numel() if len(s) == 1 else (s[0] + -s[0] % 16) * s[1]) for s in shapes]
        self._flat = torch.empty(sum(sizes), device=call.points.device)
        self._pieces = [self._flat[a:b] for a, b in pairwise([0, *accumulate(sizes)])]
        found = [piece[: s.numel()].view(s) for piece, s in zip(self._pieces, shapes, strict=True)]
        n = call.shape.n_layers
        self.weights, self.biases, self.codes = found[:n], found[n:-1], found[-1]

    def weight(self, layer: int, z: Tensor, a: Tensor) -> None:
        """Put in the slopes by a weight but the first; of the skip connection's those by its inputs but the code."""
        call = self._call
        own, n = self.weights[layer], call.n_skip
        if layer != call.shape.skip:
            n_columns = own.shape[1]
            _tall_product(z, a, self._pieces[layer % call.shape.n_layers][: z.shape[1] * n_columns].view(-1, n_columns))
            return
        received = torch.empty(len(own), a.shape[1], device=own.device)
        _tall_product(z, a, received)
        torch.mul(received[:, :n], SKIP_SCALE, out=own[:, :n])
        torch.mul(received[:, -_PLACE : 3 - _PLACE], SKIP_SCALE, out=own[:, n : n + 3])

    def first_weight(self, z: Tensor, with_places: Tensor) -> None:
        """Put in those by the first weight's columns for places, which the input of the skip connection holds."""
        received = torch.empty(z.shape[1], _PLACE, device=z.device)
        _tall_product(z, with_places[:, -_PLACE:], received)
        self.weights[0][:, :3] = received[:, :3]

    def by_sums(self, sums: _Sums) -> None:
        """Put in those by biases, codes, and the weights' columns for codes."""
        call, skip = self._call, self._call.shape.skip
        by_heads = sums.of_heads.sum(dim=2)
        by_first, by_skip = by_heads
        found = [*sums.of_rows.sum(dim=1), *by_heads.sum(dim=1)]
        into = [self.biases[layer] for layer in (*sums.ordinary, 0, skip)]
        torch._foreach_copy_(into, [row[: len(bias)] for row, bias in zip(found, into, strict=True)])
        places = call.n_skip + 3
        torch.mm(by_first.t(), call.codes, out=self.weights[0][:, 3:])
        torch.addmm(
            self.weights[skip][:, places:], by_skip.t(), call.codes, beta=0, alpha=SKIP_SCALE,
            out=self.weights[skip][:, places:],
        )  # fmt: skip
        torch.mm(by_first, call.weights[0][:, 3:], out=self.codes)
        self.codes.addmm_(by_skip, call.weights[skip][:, places:], alpha=SKIP_SCALE)

    def finished(self, largest: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Give slopes by codes, weights and biases, multiplied with what they were divided by."""
        # What the last bias receives lies elsewhere, and never was.
        self._flat.mul_(largest)
        return self.codes, [w[None] for w in self.weights], [b[None] for b in self.biases]


def _multiply(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Put a product of half matrices into `out`, with sums in float32."""
    if out.dtype == torch.float16:
        torch.mm(left, right, out=out)
    elif left.is_cuda:
        torch.mm(left, right, out_dtype=torch.float32, out=out)
    else:
        torch.mm(left.float(), right.float(), out=out)


def _tall_product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Put left' right into `out`, in float32."""
    _multiply(left.t(), right, out)


def _up(n: int) -> int:
    """Round up to the eight numbers that fast products want."""
    return -(-n // 8) * 8


def _depth(k: int, most: int) -> int:
    return min(most, max(16, 1 << (k - 1).bit_length()))
