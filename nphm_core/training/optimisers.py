"""Optimisers of weights and codes.

Weights have AdamW. Codes have Adam with the semantics of PyTorch's SparseAdam on an embedding with a largest norm, as
NPHM has it: only the rows of a batch, their moments included, change in a step, and the bias correction counts steps of
the table. Written out here, because it then works on gradients that several processes have summed, and its state is
three plain tensors. Gradients of weights and of codes are clipped by their norms, each for itself; no function here
waits for the device.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nphm_core.config import OptimiserConfig
from nphm_core.models.dispatch import has_kernels

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
# What PyTorch's embedding and its clipping add to a norm before they divide by it.
_RENORM_EPSILON, _CLIP_EPSILON = 1e-7, 1e-6


def rate_at(rate: float, step: int, settings: OptimiserConfig) -> float:
    """Give a learning rate after the decays up to a step."""
    return rate * settings.decay_factor ** (step // settings.decay_every)


def adamw(parameters: Iterable[nn.Parameter], settings: OptimiserConfig) -> torch.optim.AdamW:
    """Make the optimiser of the weights, in one kernel where they lie on a GPU; there a step can be captured."""
    chosen = [parameter for parameter in parameters if parameter.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    if not chosen or not all(parameter.is_cuda for parameter in chosen):
        return torch.optim.AdamW(chosen, lr=rate, weight_decay=decay)
    on_device = torch.tensor(rate, device=chosen[0].device)
    return torch.optim.AdamW(chosen, lr=on_device, weight_decay=decay, fused=True, capturable=True)


def move_weights(optimiser: torch.optim.AdamW, max_norm: float) -> None:
    """Clip the gradients by the norm of all together, which may change them, and do a step of `adamw`."""
    (group,) = optimiser.param_groups
    weights = [weight for weight in group["params"] if weight.grad is not None]
    # The first step makes the moments.
    if isinstance(group["lr"], Tensor) and all(_suits_kernel(weight, optimiser.state) for weight in weights):
        from nphm_core.training.step_kernels import step_adamw

        state = [[optimiser.state[w][name] for w in weights] for name in ("step", "exp_avg", "exp_avg_sq")]
        step_adamw(
            weights, [weight.grad for weight in weights], state, group["lr"],
            max_norm=max_norm, epsilon=_CLIP_EPSILON, decay=group["weight_decay"],
        )  # fmt: skip
        return
    nn.utils.clip_grad_norm_(weights, max_norm)
    optimiser.step()


def _suits_kernel(weight: nn.Parameter, state: Mapping[Tensor, Any]) -> bool:
    return bool(state.get(weight)) and has_kernels(weight) and weight.is_contiguous() and weight.grad.is_contiguous()


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def clip_(gradient: Float[Tensor, "..."], max_norm: float) -> None:
    """Shorten a gradient in place to a largest norm."""
    factor = max_norm / (gradient.norm() + _CLIP_EPSILON)
    gradient.mul_(factor.clamp_max(1))


class Codebook:
    """The codes of all subjects or scans, and their optimiser."""

    def __init__(self, codes: Float[Tensor, "n_rows n_code"], settings: OptimiserConfig) -> None:
        """Take codes to start from; they are copied."""
        self.codes = codes.detach().clone()
        self._settings = settings
        self._first, self._second = torch.zeros_like(self.codes), torch.zeros_like(self.codes)
        self._size = torch.zeros((), device=codes.device, dtype=codes.dtype)
        self.steps = 0

    @classmethod
    def random(
        cls, n_rows: int, n_code: int, spread: float, settings: OptimiserConfig, *, generator: torch.Generator
    ) -> "Codebook":
        """Start from normal codes whose expected length is `spread`, on the generator's device."""
        codes = torch.randn((n_rows, n_code), generator=generator, device=generator.device)
        return cls(codes * (spread / n_code**0.5), settings)

    def lookup(self, rows: Int[Tensor, " n_batch"]) -> Float[Tensor, "n_batch n_code"]:
        """Give codes as leaves of a new graph, after cutting those that are too long; rows must differ."""
        limit = self._settings.max_code_norm
        if has_kernels(self.codes):
            from nphm_core.training.step_kernels import look_up

            return look_up(self.codes, rows, limit, _RENORM_EPSILON).requires_grad_()
        codes = self.codes[rows]
        norm = codes.norm(dim=1, keepdim=True)
        codes = torch.where(norm > limit, codes * (limit / (norm + _RENORM_EPSILON)), codes)
        self.codes[rows] = codes
        return codes.requires_grad_()

    def update(self, rows: Int[Tensor, " n_batch"], gradient: Float[Tensor, "n_batch n_code"], rate: float) -> None:
        """Move the codes of a batch against their gradient, which is clipped in place; rows must differ.

        A row whose gradient is zero throughout was not in the batch: it stays, and so do its moments.
        """
        self.advance(rate)
        self.move(rows, gradient)

    def advance(self, rate: float) -> None:
        """Count a step, and set how far the next `move` goes."""
        self.steps += 1
        self._size.fill_(-rate * (1 - BETA2**self.steps) ** 0.5 / (1 - BETA1**self.steps))

    def move(self, rows: Int[Tensor, " n_batch"], gradient: Float[Tensor, "n_batch n_code"]) -> None:
        """Do what `update` does in a step that has been counted; all on the device, so that it can be captured."""
        if has_kernels(self.codes) and gradient.is_contiguous():
            from nphm_core.training.step_kernels import move

            tables = (self.codes, self._first, self._second)
            move(tables, rows, gradient, self._size, self._settings.clip_norm, _CLIP_EPSILON)
            return
        used = (gradient != 0).any(dim=1, keepdim=True)
        clip_(gradient, self._settings.clip_norm)
        first = torch.lerp(self._first[rows], gradient, 1 - BETA1)
        second = torch.lerp(self._second[rows], gradient.square(), 1 - BETA2)
        self._first[rows] = torch.where(used, first, self._first[rows])
        self._second[rows] = torch.where(used, second, self._second[rows])
        moved = torch.addcdiv(self.codes[rows], self._size * first, second.sqrt() + EPSILON)
        self.codes[rows] = torch.where(used, moved, self.codes[rows])

    def state(self) -> dict[str, Tensor]:
        """Give everything that training goes on from."""
        steps = torch.tensor(self.steps, dtype=torch.int64)
        return {"codes": self.codes, "first": self._first, "second": self._second, "steps": steps}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""
        for own, name in ((self.codes, "codes"), (self._first, "first"), (self._second, "second")):
            own.copy_(state[name])
        self.steps = int(state["steps"])
