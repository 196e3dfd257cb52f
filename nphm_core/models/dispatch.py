"""Whether an ensemble is evaluated by fused kernels, and the call of these; Triton is imported only then.

Products in half precision have the ten bits of TF32. Against float64 the kernels' values and gradients are off by less
than 1e-3 of their norm, and so are what weights, codes and points receive in training, by less than 5e-3; members
below `min_weight` are left out by both ways alike (`blend`). Training by them ends where training in float32 does
(`benchmarks/gpu.py`, part `curve`), so `kernel: auto` takes them wherever they run.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nphm_core.models.networks import SKIP_SCALE, FoldedCodes, StackedNetworks

if TYPE_CHECKING:
    from nphm_core.models.expression_field import ExpressionField
    from nphm_core.models.fused.network import Shape
    from nphm_core.models.fused.weights import PaddedWeights, Spec, Weights
    from nphm_core.models.identity_field import EnsembleField

MIN_POINTS = 256
"""Points of a head below which tiles of one condition would be mostly empty."""

_MAX_POINTS = 2**19
"""Points that values are asked for at once; bounds the memory."""

_N_LAYERS, _MAX_WIDTH, _MAX_OUT = 5, 256, 8
_MIN_TILE = 16


@dataclass
class Room:
    """Tiles that evaluations have room for; a captured step cannot ask the device how many it needs."""

    max_tiles: int | None = None
    """None: ask, and take what is needed."""
    most: Int[Tensor, " 1"] | None = None
    """Largest number of tiles that was needed, on the device; more than there is room for means wrong results."""
    kept: "Kept | None" = None
    """What calls for values only share."""

    def note(self, needed: Int[Tensor, " 1"]) -> None:
        """Remember what an evaluation needs; does not wait for the device."""
        if self.most is None:
            self.most = needed.clone()
        else:
            torch.maximum(self.most, needed, out=self.most)

    def reserve(self) -> None:
        """Keep room for a quarter more than was ever needed; waits for the device."""
        if self.most is not None:
            self.max_tiles = int(self.most) * 5 // 4

    def release(self) -> None:
        """Ask the device again from now on."""
        self.max_tiles = self.most = self.kept = None


@dataclass
class Kept:
    """What does not change between calls for the values of one head, as a mesh makes many of."""

    state: object
    """Tells whether weights are still the same."""
    padded: "PaddedWeights"
    code: Tensor | None = None
    version: int = 0
    anchors: Tensor | None = None
    folded: FoldedCodes | None = None

    def of(self, field: "EnsembleField", code: Tensor) -> tuple[Tensor, FoldedCodes]:
        """Give a code's anchors and what it adds to the layers."""
        version = code._version
        if self.anchors is None or self.folded is None or self.code is not code or self.version != version:
            self.code, self.version = code, version
            self.anchors, self.folded = _prepared(field, code)
        return self.anchors, self.folded


_IS_PLAIN = ContextVar("plain operations", default=False)


@contextmanager
def plain_operations() -> Iterator[None]:
    """Use plain operations inside, whatever the settings of fields say."""
    before = _IS_PLAIN.set(True)
    try:
        yield
    finally:
        _IS_PLAIN.reset(before)


def is_fused(field: "EnsembleField", points: Float[Tensor, "n_heads n_points 3"]) -> bool:
    """Tell whether kernels serve this call."""
    return _is_supported(field) and _is_wanted(field.settings.kernel, points)


def fused_sdf_and_gradient(
    field: "EnsembleField", points: Float[Tensor, "n_heads n_points 3"], code: Float[Tensor, "n_heads n_code"]
) -> tuple[Float[Tensor, "n_heads n_points"], Float[Tensor, "n_heads n_points 3"]]:
    """Evaluate and remember what the derivatives need."""
    from nphm_core.models.fused.ensemble import EnsembleSdf

    anchors, codes = _prepared(field, code)
    weights = _weights(field.networks)
    flips = field.member_flip[:, 0].contiguous()
    sdf, gradient = EnsembleSdf.apply(points, anchors, flips, codes.first, codes.skip, _spec(field), *weights.tensors())
    return sdf, gradient


def fused_sdf(
    field: "EnsembleField", points: Float[Tensor, "n_heads n_points 3"], code: Float[Tensor, "n_heads n_code"]
) -> Float[Tensor, "n_heads n_points"]:
    """Evaluate values; without gradients in parts, of which nothing is kept."""
    if torch.is_grad_enabled() and (points.requires_grad or code.requires_grad or _is_trained(field)):
        return fused_sdf_and_gradient(field, points, code)[0]
    from nphm_core.models.fused.ensemble import ensemble_values

    kept, spec = _kept(field), _spec(field)
    anchors, codes = kept.of(field, code)
    flips = field.member_flip[:, 0].contiguous()
    part = max(1, _MAX_POINTS // len(points))
    done = [
        ensemble_values(p, anchors, flips, codes.first, codes.skip, kept.padded, spec) for p in points.split(part, 1)
    ]
    return done[0] if len(done) == 1 else torch.cat(done, dim=1)


def is_network_fused(field: "ExpressionField", points: Float[Tensor, "n_heads n_points 3"]) -> bool:
    """Tell whether kernels serve this call of a wide network: in training only, which needs no slope by the points."""
    if field.settings.kernel == "auto" and not _copies_tiles(points.device):
        return False
    trains = torch.is_grad_enabled() and not points.requires_grad
    fits = field.networks.skip > 1 and field.networks.n_out <= _MAX_OUT and field.settings.n_hidden % 8 == 0
    return trains and fits and points.shape[1] >= _MIN_TILE and _is_wanted(field.settings.kernel, points)


def fused_network_values(
    networks: StackedNetworks, points: Float[Tensor, "n_heads n_points 3"], code: Float[Tensor, "n_heads n_code"]
) -> Float[Tensor, "n_heads n_points n_out"]:
    """Evaluate a network; differentiable by weights and codes."""
    from nphm_core.models.fused.network import NetworkValues

    shape = _network_shape(networks, points.shape[1])
    rows = points.flatten(0, 1)
    return NetworkValues.apply(rows, code, shape, *networks.weights, *networks.biases).unflatten(0, points.shape[:2])


def _network_shape(networks: StackedNetworks, n_points: int) -> "Shape":
    from nphm_core.models.fused.network import Shape

    return Shape(networks.n_layers, networks.skip, n_points)


def has_kernels(tensor: Tensor) -> bool:
    """Tell whether kernels in float32 can work on a tensor."""
    return tensor.is_cuda and tensor.dtype == torch.float32 and _has_triton()


def _prepared(field: "EnsembleField", code: Tensor) -> tuple[Tensor, FoldedCodes]:
    global_code, local_code = field.split_code(code)
    both = torch.cat([global_code[:, None].expand(-1, local_code.shape[1], -1), local_code], dim=2)
    return field.anchors(code), field.networks.fold(both, field.member_network)


def _weights(networks: StackedNetworks) -> "Weights":
    from nphm_core.models.fused.weights import Weights

    first, second, skip, fourth, last = networks.weights
    return Weights(
        first=first[:, :, :3],
        second=second,
        skip=skip[:, :, : second.shape[1] + 3] * SKIP_SCALE,
        fourth=fourth,
        last=last[:, 0],
        bias_second=networks.biases[1],
        bias_fourth=networks.biases[3],
        bias_last=networks.biases[4][:, 0],
    )


@torch.no_grad()
def _kept(field: "EnsembleField") -> Kept:
    """Pad weights, or give what was made before, if no weight was written to since.

    A replayed graph writes without a trace: whoever captures steps releases the room after them.
    """
    from nphm_core.models.fused.weights import PaddedWeights

    state = tuple((weight.data_ptr(), weight._version) for weight in (*field.parameters(), field.mean_anchors))
    if field.room.kept is None or field.room.kept.state != state:
        field.room.kept = Kept(state, PaddedWeights.of(_weights(field.networks)))
    return field.room.kept


def _spec(field: "EnsembleField") -> "Spec":
    from nphm_core.models.fused.layout import Blend
    from nphm_core.models.fused.weights import Spec

    settings = field.settings
    blend = Blend(settings.blend_variance, settings.background_distance_sq, settings.min_weight)
    return Spec(field.networks_of_members, blend, room=field.room)


def _is_supported(field: "EnsembleField") -> bool:
    settings = field.settings
    return (
        settings.blend == "softmax"
        and settings.n_nearest in (0, field.mean_anchors.shape[0])
        and field.n_ambient == 0
        and settings.n_layers == _N_LAYERS
        and settings.n_hidden <= _MAX_WIDTH
        and settings.n_hidden % 8 == 0
    )


def _is_wanted(kernel: str, points: Tensor) -> bool:
    """Tell whether a setting and the place asked from want kernels, and they have enough to do."""
    if kernel == "plain" or _IS_PLAIN.get() or (kernel == "auto" and not points.is_cuda):
        return False
    return points.dtype == torch.float32 and _is_worth_it(points)


def _is_worth_it(points: Tensor) -> bool:
    """Tell whether kernels run here at all, and have enough to do; interpreted ones (in tests) always have.

    A single head always has: a mesh asks for few points at its end, which must be rounded as all others are.
    """
    is_enough = len(points) == 1 or points.shape[1] >= MIN_POINTS
    return _is_interpreted() or (points.is_cuda and is_enough and _has_triton())


def _is_trained(field: "EnsembleField") -> bool:
    return any(parameter.requires_grad for parameter in field.parameters())


@cache
def _copies_tiles(device: torch.device) -> bool:
    """Tell whether hardware copies tiles, as NVIDIA's does since the H100; the wide network's kernels rest on that."""
    is_nvidia = device.type == "cuda" and torch.version.cuda is not None
    return is_nvidia and torch.cuda.get_device_capability(device) >= (9, 0)


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _is_interpreted() -> bool:
    import os

    return os.environ.get("TRITON_INTERPRET") == "1" and _has_triton()
