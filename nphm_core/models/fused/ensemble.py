"""Signed distance and gradient of an ensemble, and their derivatives, by kernels.

`EnsembleSdf` is one operation for PyTorch's autograd: from points, anchors, weights and folded codes to the blend.
Its backward pass is written out; no graph of the gradient is built, and activations are kept in half precision.

Of the blend: with w the weights, v and g the members' values and gradients, l the logits' slopes by the point, and S
and G the loss's slopes by the blended value and gradient, let d = v - sum(w v), h = l . G, k = g . G, q = d h + k.
The loss's slope by v is w (S + h - sum(w h)), by g it is w G, by l it is w d G, and by a logit
w (d (S - sum(w h)) + q - sum(w q)).
"""

from dataclasses import replace
from typing import Any

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from nphm_core.models.fused import backward_kernels as back
from nphm_core.models.fused import layer_kernels as fore
from nphm_core.models.fused import member_kernels as pairs
from nphm_core.models.fused.layout import POINTS, SLOTS, Layout, chunks, lay_out
from nphm_core.models.fused.value_kernel import value_kernel
from nphm_core.models.fused.weights import VALUES, PaddedWeights, Spec, Tuning, Weights, power_of_two

_LARGEST = 0.25
"""Largest slope of a loss that the backward pass starts with, scaled: half precision ends at 65504 and at 6e-8."""


class EnsembleSdf(torch.autograd.Function):
    """Signed distances and gradients."""

    @staticmethod
    def forward(ctx, points, anchors, flips, first, skip, spec: Spec, *weights):
        """Evaluate, and keep activations."""
        points, anchors = points.contiguous(), anchors.contiguous()
        padded = PaddedWeights.of(Weights(*weights))
        layout = _layout(points, anchors, flips, spec)
        codes = (_padded_codes(first, padded), _padded_codes(skip, padded))
        call = _Call(layout, padded, spec, points, anchors, flips)
        kept = call.values(codes, keep=True)
        call.gradients(kept)
        sdf, gradient = call.blend(kept["value"], kept["gradient"])
        ctx.call, ctx.kept = call, kept
        return sdf, gradient

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_sdf, by_gradient):
        """Give a loss's slopes; what was kept is given back."""
        call, kept = ctx.call, ctx.kept
        ctx.call = ctx.kept = None
        found = call.backward(kept, by_sdf.contiguous(), by_gradient.contiguous())
        by_points = found["points"] if ctx.needs_input_grad[0] else None
        return by_points, found["anchors"], None, found["first"], found["skip"], None, *found["weights"]


@torch.no_grad()
def ensemble_values(
    points: Float[Tensor, "n_heads n_points 3"],
    anchors: Float[Tensor, "n_heads n_anchors 3"],
    flips: Float[Tensor, " n_members"],
    first: Float[Tensor, "n_conditions n_hidden"],
    skip: Float[Tensor, "n_conditions n_hidden"],
    padded: PaddedWeights,
    spec: Spec,
    tuning: Tuning = VALUES,
) -> Float[Tensor, "n_heads n_points"]:
    """Give signed distances only, which nothing is kept for; asks the device for the room that they need."""
    points, anchors = points.contiguous(), anchors.contiguous()
    layout = lay_out(points, anchors, flips, spec.networks, spec.blend, tuning.rows)
    call = _Call(layout, padded, replace(spec, tuning=tuning), points, anchors, flips)
    codes = (_padded_codes(first, padded), _padded_codes(skip, padded))
    value = call.values_at_once(codes) if tuning.at_once else call.values(codes, keep=False)["value"]
    return call.blend(value, None)[0]


class _Call:
    """The launches of one evaluation."""

    def __init__(
        self, layout: Layout, padded: PaddedWeights, spec: Spec, points: Tensor, anchors: Tensor, flips: Tensor
    ):
        self.layout, self.padded, self.spec = layout, padded, spec
        self.points, self.anchors, self.flips = points, anchors, flips
        tuning, sizes = spec.tuning, padded.sizes
        launch = {"ROWS": tuning.rows, "num_warps": tuning.warps, "num_stages": tuning.stages}
        depth = min(tuning.depth, sizes["SP"])
        self._wide = launch | {name: sizes[name] for name in ("H", "HP")} | {"BK": depth}
        self._skip = self._wide | {name: sizes[name] for name in ("SW", "SP")}
        self._all = self._skip | {"S": sizes["S"]}
        self._cut = {"CB": min(max(tuning.columns, sizes["HP"] // 2), sizes["HP"])}
        self._whole = {"CB": sizes["HP"]}
        self._n_cuts = sizes["HP"] // self._cut["CB"]
        self._tiles = (layout.tile_network, layout.n_tiles)
        self._grid = (layout.max_tiles,)
        self._cut_grid = (layout.max_tiles, self._n_cuts)

    def _rows(self, width: int) -> Tensor:
        return torch.empty(self.layout.n_rows, width, dtype=torch.float16, device=self.points.device)

    def _planes(self, n: int) -> Tensor:
        return torch.zeros(n, self.layout.n_rows, device=self.points.device)

    def values(self, codes: tuple[Tensor, Tensor], *, keep: bool) -> dict[str, Tensor]:
        """Evaluate all rows; with `keep` all activations are given."""
        p, layout = self.padded, self.layout
        sizes = p.sizes
        nothing = layout.place
        kept = {
            "a1": self._rows(sizes["H"]) if keep else nothing,
            "half": self._rows(sizes["SW"]),
            "a3": self._rows(sizes["H"]),
            "a4": self._rows(sizes["H"]) if keep else nothing,
            "value": self._planes(1)[0],
        }
        tiles = (layout.tile_condition, *self._tiles)
        place, n_rows = layout.place, layout.n_rows
        fore.first_kernel[self._grid](
            place, codes[0], p.w0, p.w1t, p.b1, kept["a1"], kept["half"], *tiles, n_rows, KEEP=keep, **self._all
        )
        fore.third_kernel[self._cut_grid](
            place, kept["half"], codes[1], p.w2t, p.w2p, kept["a3"], *tiles, n_rows, **self._cut, **self._skip
        )
        fore.fourth_kernel[self._cut_grid](
            kept["a3"],
            p.w3t,
            p.b3,
            p.w4,
            p.b4,
            kept["a4"],
            kept["value"],
            *self._tiles,
            KEEP=keep,
            **self._cut,
            **self._wide,
        )
        return kept

    def values_at_once(self, codes: tuple[Tensor, Tensor]) -> Tensor:
        """Evaluate all rows in one kernel."""
        p, layout, tuning = self.padded, self.layout, self.spec.tuning
        value = torch.empty(layout.n_rows, device=self.points.device)
        wide, narrow = p.sizes["HP"], p.sizes["SP"]
        value_kernel[self._grid](
            layout.place, *codes, p.w0, p.w1t, p.b1, p.w2t, p.w2p, p.w3t, p.b3, p.w4, p.b4, value,
            layout.tile_condition, *self._tiles, layout.n_rows, ROWS=tuning.rows, HP=wide, SP=narrow, CW=wide // 2,
            num_warps=tuning.warps, num_stages=tuning.stages,
        )  # fmt: skip
        return value

    def gradients(self, kept: dict[str, Tensor], *, keep: bool = True) -> None:
        """Pull the derivative of each row's value back to its place."""
        p, sizes = self.padded, self.padded.sizes
        kept["q3"], kept["q2"] = self._rows(sizes["H"]), self._rows(sizes["SW"])
        kept["q1"] = self._rows(sizes["H"]) if keep else kept["q3"]
        kept["gradient"] = self._planes(3)
        fore.pull_last_kernel[self._grid](kept["a4"], p.w4, p.w3, kept["q3"], *self._tiles, **self._whole, **self._wide)
        fore.pull_skip_kernel[self._grid](kept["a3"], kept["q3"], p.w2, kept["q2"], *self._tiles, **self._skip)
        fore.pull_first_kernel[self._cut_grid](
            kept["a1"], kept["half"], kept["q2"], p.w1, p.w0, kept["q1"], kept["gradient"], *self._tiles,
            self.layout.n_rows, KEEP=keep, **self._cut, **self._all,
        )  # fmt: skip

    def blend(self, value: Tensor, gradient: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Blend values, and gradients where they are given."""
        layout, points = self.layout, self.points
        out = torch.empty(points.shape[:2], device=points.device)
        out_gradient = torch.empty(points.shape if gradient is not None else (0,), device=points.device)
        pairs.blend_kernel[self._blocks()](
            points, self.anchors, self.flips, layout.bits, layout.base, value,
            out_gradient if gradient is None else gradient, out, out_gradient, points.shape[1], layout.n_blocks,
            layout.n_rows, *self._numbers(), WITH_GRADIENT=gradient is not None, **self._pair_sizes(),
        )  # fmt: skip
        return out, None if gradient is None else out_gradient

    def backward(self, kept: dict[str, Tensor], by_sdf: Tensor, by_gradient: Tensor) -> dict[str, Any]:
        """Give a loss's slopes by everything, from those by the blend."""
        largest = torch.maximum(by_sdf.abs().max(), by_gradient.abs().max()).reshape(1)
        scale = _LARGEST / largest.clamp_min(1e-30)
        by_value, by_row, by_offset = self._planes(1), self._planes(3), self._planes(3)
        layout, points = self.layout, self.points
        pairs.blend_backward_kernel[self._blocks()](
            points, self.anchors, self.flips, layout.bits, layout.base, kept["value"], kept["gradient"], by_sdf,
            by_gradient, scale, by_value, by_row, by_offset, points.shape[1], layout.n_blocks, layout.n_rows,
            *self._numbers(), **self._pair_sizes(),
        )  # fmt: skip
        self._push(kept, by_value, by_row)
        by_place = self._back(kept, by_row, by_offset)
        by_points = torch.empty_like(points)
        pairs.gather_kernel[self._blocks()](
            layout.bits, layout.base, by_place, by_points, points.shape[1], layout.n_blocks, layout.n_rows,
            **self._pair_sizes(),
        )  # fmt: skip
        return self._received(kept, scale) | {"points": by_points / scale}

    def _push(self, kept: dict[str, Tensor], by_value: Tensor, by_row: Tensor) -> None:
        p, sizes, layout = self.padded, self.padded.sizes, self.layout
        n_sums = 7 * sizes["H"] + sizes["SW"] + 1 + 3 * self._n_cuts
        kept["sums"] = torch.empty(layout.max_tiles, n_sums, device=self.points.device)
        for name, width in (("p1", "H"), ("p2", "SW"), ("p3", "H"), ("z4", "H"), ("z3", "H"), ("z2", "SW")):
            kept[name] = self._rows(sizes[width])
        back.push_first_kernel[self._grid](
            by_row,
            kept["a1"],
            kept["half"],
            p.w0,
            p.w1t,
            kept["p1"],
            kept["p2"],
            *self._tiles,
            layout.n_rows,
            **self._all,
        )
        back.push_skip_kernel[self._grid](
            kept["p2"], kept["a3"], p.w2t_wide, kept["p3"], *self._tiles, **self._whole, **self._skip
        )
        back.push_last_kernel[self._cut_grid](
            kept["p3"],
            kept["a4"],
            p.w3t,
            p.w4,
            by_value,
            kept["z4"],
            kept["sums"],
            *self._tiles,
            SUMS=n_sums,
            **self._cut,
            **self._wide,
        )

    def _back(self, kept: dict[str, Tensor], by_row: Tensor, by_offset: Tensor) -> Tensor:
        p, sizes, layout = self.padded, self.padded.sizes, self.layout
        sums, n_sums, h = kept["sums"], kept["sums"].shape[1], sizes["H"]
        at_c2, at_b1, at_first = 2 * h + 1, 3 * h + 1, 3 * h + 1 + sizes["SW"]
        by_place = torch.zeros(3, layout.n_rows, device=self.points.device)
        back.back_last_kernel[self._cut_grid](
            kept["z4"], kept["a3"], kept["q3"], kept["p3"], p.w3, kept["z3"], sums[:, at_c2:], *self._tiles,
            SUMS=n_sums, **self._cut, **self._wide,
        )  # fmt: skip
        back.back_skip_kernel[self._grid](
            kept["z3"], kept["half"], kept["q2"], kept["p2"], p.w2, kept["z2"], sums[:, at_b1:], *self._tiles,
            SUMS=n_sums, **self._all,
        )  # fmt: skip
        back.back_first_kernel[self._cut_grid](
            layout.place, by_row, by_offset, self.flips, kept["z2"], kept["a1"], kept["q1"], kept["p1"], p.w1, p.w0,
            sums[:, at_first:], by_place, layout.tile_condition, *self._tiles, layout.n_rows, SUMS=n_sums,
            MEMBERS=len(self.flips), **self._cut, **self._all,
        )  # fmt: skip
        return by_place

    def _received(self, kept: dict[str, Tensor], scale: Tensor) -> dict[str, Any]:
        """Sum what tiles say of codes, anchors and weights."""
        sizes, layout = self.padded.sizes, self.layout
        h, s, width = sizes["H"], sizes["S"], sizes["SW"]
        one = torch.ones_like(scale)
        ordered = _segment_sums(kept["sums"], layout.starts, scale)
        of_network = _segment_sums(ordered, layout.network_starts, one)
        b3, last, b4, _, b1, _, by_first, _ = of_network.split([h, h, 1, h, width, h, 3 * h, 3 * self._n_cuts], dim=1)
        by_condition = torch.empty_like(ordered).index_copy_(0, layout.order, ordered)
        _, skip, _, first, _, offset = by_condition.split([2 * h + 1, h, width, h, 3 * h, 3 * self._n_cuts], dim=1)
        second, by_skip, fourth = self._products(kept, scale)
        anchors = -offset.reshape(len(self.points), -1, self._n_cuts, 3).sum(dim=2)[:, :-1]
        weights = (
            by_first.view(-1, 3, h).transpose(1, 2), second[:, :s], by_skip[:, :, : s + 3], fourth, last, b1[:, :s], b3,
            b4[:, 0],
        )  # fmt: skip
        return {"anchors": anchors, "first": first, "skip": skip, "weights": weights}

    def _products(self, kept: dict[str, Tensor], scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give what the three large weights receive."""
        sizes, parts = self.padded.sizes, chunks(self.layout)
        h, s, width = sizes["H"], sizes["S"], sizes["SW"]
        w4, none = self.padded.w4, kept["q3"]
        jobs = (
            ("z2", "a1", kept["q2"], "half", "p1", w4, False, s, width, h),
            ("z3", "half", kept["q3"], "a3", "p2", w4, False, h, h, width),
            ("z4", "a3", none, "a4", "p3", w4, True, sizes["HP"], h, h),
        )
        out = []
        for by_out, rows_in, q, a, pushed, last, is_last, limit, m, n in jobs:
            block = min(128, power_of_two(m))
            sums = torch.empty(len(parts.network), m * n, device=scale.device)
            back.weight_kernel[(len(parts.network), -(-m // block))](
                kept[by_out], kept[rows_in], q, kept[a], kept[pushed], last, sums, parts.network, parts.first,
                parts.end, parts.n_chunks, LAST=is_last, LIMIT=limit, ROWS=self.layout.rows, M=m, N=n, MB=block,
                NP=power_of_two(n), BR=min(32, self.layout.rows), num_warps=8,
                num_stages=self.spec.tuning.stages,
            )  # fmt: skip
            out.append(_segment_sums(sums, parts.starts, scale).view(-1, m, n))
        return out[0], out[1], out[2]

    def _blocks(self) -> tuple[int]:
        return (len(self.points) * self.layout.n_blocks,)

    def _numbers(self) -> tuple[float, float]:
        return self.spec.blend.variance, self.spec.blend.background_distance_sq

    def _pair_sizes(self) -> dict[str, int]:
        return {"POINTS": POINTS, "MEMBERS": SLOTS, "ANCHORS": self.anchors.shape[1]}


def _layout(points: Tensor, anchors: Tensor, flips: Tensor, spec: Spec) -> Layout:
    layout = lay_out(points, anchors, flips, spec.networks, spec.blend, spec.tuning.rows, spec.room.max_tiles)
    spec.room.note(layout.needed)
    return layout


def _segment_sums(rows: Tensor, starts: Tensor, scale: Tensor) -> Tensor:
    width, block = rows.shape[1], 256
    out = torch.empty(len(starts) - 1, width, device=rows.device)
    back.segment_kernel[(len(out), triton.cdiv(width, block))](rows, starts, out, scale, width, BLOCK=block)
    return out


def _padded_codes(codes: Tensor, padded: PaddedWeights) -> Float[Tensor, "n_conditions n_padded"]:
    return torch.nn.functional.pad(codes, (0, padded.w3.shape[1] - codes.shape[1])).contiguous()
