"""Values of one wide network, and their derivatives by weights and codes, by kernels.

`NetworkValues` is one operation for PyTorch's autograd. It has no derivative by the points: in training these are data.
What the weights receive is a product of two tall matrices, which the vendor's library does well. Slopes are divided by
the largest one of the outputs, so that half precision holds them; that is undone at once in the memory of all results.
"""

from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from nphm_core.models.fused import network_kernels as kernels
from nphm_core.models.networks import SKIP_SCALE

_PLACE, _N_MAXIMA = int(kernels.PLACE_COLUMNS.value), int(kernels.N_MAXIMA.value)


@dataclass(frozen=True)
class Tuning:
    """How the work is cut; results differ by rounding only."""

    rows: int = 128
    """Of a tile; fewer where heads have fewer, so that none has rows of three heads."""
    columns: int = 128
    depth: int = 64
    """Terms of a product that are loaded at once."""
    warps: int = 8
    stages: int = 3
    max_registers: int | None = 128
    """Of a thread of kernels with a product: with no more than these two tiles share a processor."""
    pass_columns: int = 64
    """Columns of a tile of kernels without a product."""
    pass_warps: int = 4


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
        self.n_tiles = triton.cdiv(self.n_rows, self.tile_rows)
        self.beside = _Beside(points.device)
        self.halves = self._halves()

    def _halves(self) -> list[Tensor]:
        """Give the weights of all layers but the first and the last in half precision, with rows to fill up eight."""
        chosen = self.weights[1:-1]
        sizes = [_up(len(weight)) * weight.shape[1] for weight in chosen]
        flat = torch.zeros(sum(sizes), dtype=torch.float16, device=self.points.device)
        parts = [part.view(-1, w.shape[1]) for part, w in zip(flat.split(sizes), chosen, strict=True)]
        with self.beside:
            torch._foreach_copy_([part[: len(w)] for part, w in zip(parts, chosen, strict=True)], chosen)
        return [flat[:0], *parts]

    def values(self) -> tuple[Tensor, list[Tensor]]:
        """Give the outputs, and what each layer but the first was given."""
        shape, n, first = self.shape, self.n_hidden, self.weights[0]
        by_first, by_skip = self._by_codes()
        kept = [self._empty(n) for _ in range(shape.n_layers - 1)]
        kept[shape.skip - 1] = with_places = self._empty(_up(self.n_skip) + _PLACE)
        kernels.enter_kernel[self._pass_grid(n)](
            self.points, first, by_first, self._passed(kept[0]), with_places[:, -_PLACE:], self.n_rows, shape.per_head,
            N=n, STRIDE=first.shape[1], WIDE=with_places.shape[1], **self._pass(),
        )  # fmt: skip
        self.beside.join()
        for layer in range(1, shape.n_layers - 1):
            bias = by_skip if layer == shape.skip else self.biases[layer]
            self._layer(layer, kept[layer - 1], bias, kept[layer])
        last = self.weights[-1]
        out = torch.empty(self.n_rows, len(last), device=self.points.device)
        kernels.leave_kernel[(triton.cdiv(self.n_rows, 128),)](
            kept[-1], last, self.biases[-1], out, self.n_rows, K=n, N=len(last), ROWS=128, BK=_depth(n, 64), num_warps=8
        )
        return out, kept

    def _by_codes(self) -> Tensor:
        """Give the biases of each head's rows in the two layers that codes reach."""
        shape, n, n_heads = self.shape, self.n_hidden, len(self.codes)
        first, skip = self.weights[0], self.weights[shape.skip]
        out = torch.empty(2, n_heads, n, device=self.points.device)
        kernels.code_kernel[(triton.cdiv(n, 32), triton.cdiv(n_heads, 32), 2)](
            self.codes, first[:, 3:], self.biases[0], skip[:, self.n_skip + 3 :], self.biases[shape.skip], out,
            n_heads, SKIP_SCALE, N=n, K=self.codes.shape[1], FIRST_STRIDE=first.shape[1], SKIP_STRIDE=skip.shape[1],
            HEADS=32, COLUMNS=32, BK=64, num_warps=4,
        )  # fmt: skip
        return out

    def _layer(self, layer: int, a: Tensor, bias: Tensor, out: Tensor) -> None:
        half = self.halves[layer]
        is_skip = layer == self.shape.skip
        k, width = _up(self.n_skip) if is_skip else a.shape[1], len(half)
        rows, columns, depth = self.tile_rows, self.tuning.columns, _depth(k, self.tuning.depth)
        kernels.linear_kernel[triton.cdiv(width, columns), self.n_tiles](
            _tiles(a[:, :k], rows, depth), _tiles(half[:, :k], columns, depth), bias, self.points,
            self.weights[layer][:, self.n_skip :], _tiles(out[:, :width], rows, columns), self.n_rows,
            self.shape.per_head, SKIP_SCALE, SKIP=is_skip, K=k, N=len(self.weights[layer]), WIDTH=width,
            STRIDE=half.shape[1], BK=depth, **self._launch(),
        )  # fmt: skip

    def backward(self, kept: list[Tensor], by_out: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Give slopes by codes, by weights and by biases."""
        shape, n, device = self.shape, self.n_hidden, by_out.device
        maxima, largest = torch.empty(_N_MAXIMA, device=device), torch.empty((), device=device)
        kernels.maxima_kernel[(_N_MAXIMA,)](by_out, maxima, by_out.numel(), BLOCK=1024)
        sums = _Sums(self)
        slopes = _Slopes(self, sums)
        z, top = self._empty(n), shape.n_layers - 2
        kernels.return_kernel[self._pass_grid(n)](
            by_out, maxima, largest, self.weights[-1], self._passed(kept[-1]), self._passed(z), sums.of_last,
            N_OUT=by_out.shape[1], N=n, MOMENT_STRIDE=sums.of_last.stride(0), **sums.of(top), **self._pass(),
        )  # fmt: skip
        alive = [z]
        for layer in range(top, 0, -1):
            with self.beside:
                slopes.weight(layer, alive[-1], kept[layer - 1])
            alive.append(self._below(layer, alive[-1], kept[layer - 1], sums))
        slopes.by_sums()
        return slopes.finished(largest)

    def _below(self, layer: int, z: Tensor, a: Tensor, sums: "_Sums") -> Tensor:
        is_skip, half = layer == self.shape.skip, self.halves[layer]
        width = _up(self.n_skip) if is_skip else half.shape[1]
        below = self._empty(width)
        rows, columns, depth = self.tile_rows, self.tuning.columns, _depth(z.shape[1], self.tuning.depth)
        kernels.back_kernel[triton.cdiv(width, columns), self.n_tiles](
            _tiles(z, rows, depth), _tiles(half[:, :width], depth, columns), _tiles(a[:, :width], rows, columns),
            _tiles(below, rows, columns), self.points, sums.of_places, SKIP_SCALE if is_skip else 1.0,
            FIRST=layer == 1, K=z.shape[1], N=width, MOMENT_STRIDE=sums.of_places.stride(0), BK=depth,
            **sums.of(layer - 1), **self._launch(),
        )  # fmt: skip
        return below

    def _empty(self, width: int) -> Tensor:
        return torch.empty(self.n_rows, width, dtype=torch.float16, device=self.points.device)

    def _launch(self) -> dict[str, int]:
        own = self.tuning
        tile = {"ROWS": self.tile_rows, "COLUMNS": own.columns, "num_warps": own.warps, "num_stages": own.stages}
        return tile if own.max_registers is None else tile | {"maxnreg": own.max_registers}

    def _passed(self, matrix: Tensor) -> TensorDescriptor:
        return _tiles(matrix, self.tile_rows, self.tuning.pass_columns)

    def _pass_grid(self, width: int) -> tuple[int, int]:
        return triton.cdiv(width, self.tuning.pass_columns), self.n_tiles

    def _pass(self) -> dict[str, int]:
        return {"ROWS": self.tile_rows, "COLUMNS": self.tuning.pass_columns, "num_warps": self.tuning.pass_warps}


class _Beside:
    """A second stream, for small work and the ends of large work, which leave processors free; none on a CPU.

    What the work uses must live until the streams join.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = _second_stream(device) if device.type == "cuda" else None
        self._within = torch.cuda.stream(self._stream)

    def __enter__(self) -> None:
        """Begin something that comes after all that is under way."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())
        self._within.__enter__()

    def __exit__(self, *problem: object) -> None:
        """Go on with what comes after."""
        self._within.__exit__(*problem)

    def join(self) -> None:
        """Let all that follows come after both streams."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)


@cache
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    # One for all calls: the library keeps memory for each stream that it works on.
    return torch.cuda.Stream(device)


class _Sums:
    """Sums over the rows of each tile: what biases receive, and what thin weights do.

    In the two layers that codes reach they are by heads.
    """

    def __init__(self, call: _Call) -> None:
        shape, rows, self._n = call.shape, call.tile_rows, call.n_hidden
        self._n_rows, self._per_head, self._skip, self._n_tiles = call.n_rows, shape.per_head, shape.skip, call.n_tiles
        # As many tiles as a head can have rows in; not every head fills the last one.
        self._n_slots = triton.cdiv(shape.per_head - 1, rows) + 1
        device = call.points.device
        self.ordinary = [layer for layer in range(1, shape.n_layers - 1) if layer != shape.skip]
        n_last = len(call.weights[-1])
        # What the layers' biases receive, then the first weight's places, then the last weight, then its bias.
        self.of_tiles = torch.empty(self._n_tiles, len(self.ordinary) + 3 + n_last + 1, self._n, device=device)
        self.of_places = self.of_tiles[:, len(self.ordinary) :]
        self.of_last = self.of_places[:, 3:]
        self.of_heads = torch.zeros(2, len(call.codes), self._n_slots, self._n, device=device)

    def of(self, layer: int) -> dict[str, Tensor | int | bool]:
        """Give what a kernel is told about a layer: where it stores, and by which rows."""
        told = {"n_rows": self._n_rows, "per_head": self._per_head, "n_slots": self._n_slots}
        if layer in (0, self._skip):
            return told | {"BY_HEADS": True, "sums": self.of_heads[int(layer > 0)], "SUM_STRIDE": self._n}
        own = self.of_tiles[:, self.ordinary.index(layer)]
        return told | {"BY_HEADS": False, "sums": own, "SUM_STRIDE": own.stride(0)}


class _Slopes:
    """What weights, biases and codes receive, in one piece of memory."""

    def __init__(self, call: _Call, sums: _Sums) -> None:
        self._call, self._sums = call, sums
        first, last, n = call.weights[0], call.weights[-1], call.n_hidden
        # The products have some rows more; every piece begins where fast products can store it.
        sizes = [_up((len(w) + -len(w) % 16) * w.shape[1]) for w in call.weights[1:-1]]
        n_tiled = sums.of_tiles.shape[1]
        sizes += [_up(first.numel()), _up((n_tiled + 2) * n), call.codes.numel()]
        self._flat = torch.empty(sum(sizes), device=call.points.device)
        *self._wide, by_first, rows, codes = (self._flat[a:b] for a, b in pairwise([0, *accumulate(sizes)]))
        self._rows = rows[: (n_tiled + 2) * n].view(-1, n)
        self._places, of_last, of_last_bias = self._rows[len(sums.ordinary) : n_tiled].split([3, len(last), 1])
        wide = [w[: own.numel()].view(own.shape) for w, own in zip(self._wide, call.weights[1:-1], strict=True)]
        self.weights = [by_first[: first.numel()].view(first.shape), *wide, of_last]
        of_layers = {layer: self._rows[k] for k, layer in enumerate(sums.ordinary)}
        of_layers |= {0: self._rows[-2], call.shape.skip: self._rows[-1]}
        self.biases = [of_layers[layer][: len(bias)] for layer, bias in enumerate(call.biases[:-1])]
        self.biases.append(of_last_bias[0, : len(last)])
        self.codes = codes.view(call.codes.shape)

    def weight(self, layer: int, z: Tensor, a: Tensor) -> None:
        """Put in the slopes by a wide weight; of the skip connection's those by its inputs but the code."""
        call = self._call
        own, n = self.weights[layer], call.n_skip
        if layer != call.shape.skip:
            _tall_product(z, a, self._wide[layer - 1][: z.shape[1] * own.shape[1]].view(-1, own.shape[1]))
            return
        received = torch.empty(len(own), a.shape[1], device=own.device)
        _tall_product(z, a, received)
        torch.mul(received[:, :n], SKIP_SCALE, out=own[:, :n])
        torch.mul(received[:, -_PLACE : 3 - _PLACE], SKIP_SCALE, out=own[:, n : n + 3])

    def by_sums(self) -> None:
        """Put in those by biases, codes, thin weights, and the weights' columns for codes; the streams join."""
        call, sums, skip = self._call, self._sums, self._call.shape.skip
        n_tiled, places = sums.of_tiles.shape[1], call.n_skip + 3
        by_heads = torch.empty_like(sums.of_heads[:, :, 0])
        _sum(sums.of_heads.flatten(0, 1), by_heads)
        by_first, by_skip = by_heads
        with call.beside:
            torch.mm(by_first.t(), call.codes, out=self.weights[0][:, 3:])
            own = self.weights[skip][:, places:]
            torch.addmm(own, by_skip.t(), call.codes, beta=0, alpha=SKIP_SCALE, out=own)
        torch.mm(by_first, call.weights[0][:, 3:], out=self.codes)
        self.codes.addmm_(by_skip, call.weights[skip][:, places:], alpha=SKIP_SCALE)
        _sum(by_heads, self._rows[n_tiled:])
        _sum(sums.of_tiles.flatten(1)[None], self._rows[:n_tiled])
        self.weights[0][:, :3] = self._places.t()
        call.beside.join()

    def finished(self, largest: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Give slopes by codes, weights and biases, multiplied with what they were divided by."""
        self._flat.mul_(largest)
        return self.codes, [w[None] for w in self.weights], [b[None] for b in self.biases]


def _tall_product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Put left' right into `out`: of half matrices, with sums in float32."""
    if left.is_cuda:
        torch.mm(left.t(), right, out_dtype=torch.float32, out=out)
    else:
        torch.mm(left.t().float(), right.float(), out=out)


def _sum(values: Tensor, out: Tensor) -> None:
    """Put sums over the second of three dimensions into `out`, in an order that is always the same."""
    n_groups, n_terms, n_columns = values.shape
    kernels.sum_kernel[(triton.cdiv(n_columns, 32), n_groups)](values, out, n_terms, n_columns, TERMS=64, COLUMNS=32)


def _tiles(matrix: Tensor, rows: int, columns: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(matrix, [rows, columns])


def _up(n: int) -> int:
    """Round up to the eight numbers that fast products want."""
    return -(-n // 8) * 8


def _depth(k: int, most: int) -> int:
    return min(most, max(16, 1 << (k - 1).bit_length()))
