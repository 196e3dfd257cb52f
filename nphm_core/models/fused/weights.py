"""Weights as the kernels read them, and what is constant in a field."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from nphm_core.models.dispatch import Room
from nphm_core.models.fused.layout import Blend


@dataclass(frozen=True)
class Tuning:
    """How kernels are cut; results differ by rounding only."""

    rows: int = 64
    """With 128 rows the widest kernels hold more than a thread's 255 registers."""
    warps: int = 4
    stages: int = 3
    depth: int = 32
    """Terms of a product that are loaded at once."""
    columns: int = 128
    """Of a wide layer, in a program; at least half of the layer's."""
    at_once: bool = False
    """Values by one kernel for all layers."""


VALUES = Tuning(rows=128, warps=8, stages=2, at_once=True)
"""What is fastest where nothing but values is asked for."""


@dataclass(frozen=True)
class Spec:
    """What is constant in a field."""

    networks: tuple[int, ...]
    """Network of each member, the background last."""
    blend: Blend
    tuning: Tuning = Tuning()
    room: Room = field(default_factory=Room)


@dataclass(frozen=True)
class Weights:
    """Weights of all networks: of five layers, without the columns that codes have, `skip` already scaled."""

    first: Float[Tensor, "n_networks n_hidden 3"]
    second: Float[Tensor, "n_networks n_skip n_hidden"]
    skip: Float[Tensor, "n_networks n_hidden n_skip_and_3"]
    fourth: Float[Tensor, "n_networks n_hidden n_hidden"]
    last: Float[Tensor, "n_networks n_hidden"]
    bias_second: Float[Tensor, "n_networks n_skip"]
    bias_fourth: Float[Tensor, "n_networks n_hidden"]
    bias_last: Float[Tensor, " n_networks"]

    def tensors(self) -> tuple[Tensor, ...]:
        """Give all in their order."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)


@dataclass(frozen=True)
class PaddedWeights:
    """Weights as the kernels read them: padded with zeros, products' in half precision."""

    w0: Tensor
    w1t: Tensor
    w1: Tensor
    w2t: Tensor
    """Without the place's rows: the values need all its bits."""
    w2t_wide: Tensor
    w2: Tensor
    w2p: Tensor
    w3t: Tensor
    w3: Tensor
    w4: Tensor
    b1: Tensor
    b3: Tensor
    b4: Tensor
    n_hidden: int
    n_skip: int

    @classmethod
    def of(cls, weights: Weights) -> "PaddedWeights":
        """Pad weights and their transposes."""
        n_hidden, n_skip = weights.fourth.shape[1], weights.second.shape[1]
        wide, narrow = power_of_two(n_hidden), power_of_two(n_skip + 3)
        half = lambda w, rows, columns: _padded(w, rows, columns).half()  # noqa: E731
        skip = weights.skip
        return cls(
            w0=_padded(weights.first.transpose(1, 2), 3, wide),
            w1t=half(weights.second.transpose(1, 2), wide, narrow),
            w1=half(weights.second, narrow, wide),
            w2t=half(skip[:, :, :n_skip].transpose(1, 2), narrow, wide),
            w2t_wide=half(skip.transpose(1, 2), narrow, wide),
            w2=half(skip, wide, narrow),
            w2p=_padded(skip[:, :, n_skip:].transpose(1, 2), 3, wide),
            w3t=half(weights.fourth.transpose(1, 2), wide, wide),
            w3=half(weights.fourth, wide, wide),
            w4=_padded(weights.last[:, None], 1, wide),
            b1=_padded(weights.bias_second[:, None], 1, narrow),
            b3=_padded(weights.bias_fourth[:, None], 1, wide),
            b4=weights.bias_last.contiguous(),
            n_hidden=n_hidden,
            n_skip=n_skip,
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Give the kernels' constants."""
        n_wide = -(-(self.n_skip + 3) // 8) * 8
        return {
            "H": self.n_hidden,
            "HP": self.w3.shape[1],
            "S": self.n_skip,
            "SW": n_wide,
            "SP": self.w1.shape[1],
        }


def power_of_two(n: int) -> int:
    """Give the next power of two, or 16 at least, which a product needs."""
    return max(16, 1 << (n - 1).bit_length())


def _padded(weight: Tensor, n_rows: int, n_columns: int) -> Float[Tensor, "n_networks n_rows n_columns"]:
    more = (0, n_columns - weight.shape[2], 0, n_rows - weight.shape[1])
    return torch.nn.functional.pad(weight, more).contiguous()
