"""What training starts from: random weights and codes that depend on the seed only, or those of an earlier model."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nphm_core.config import IdentityModelConfig, OptimiserConfig, Section, TrainExpressionConfig
from nphm_core.errors import TrainingError
from nphm_core.models.expression_field import ExpressionField
from nphm_core.models.identity_field import IdentityField, build_identity_field
from nphm_core.models.neural_head import NeuralHead
from nphm_core.records import digest_of
from nphm_core.training.draws import seed_of
from nphm_core.training.optimisers import Codebook

NOT_IN_KEY = {"n_steps", "joint_steps", "checkpoint_every", "log_every"}
"""Settings that may differ where a run is resumed."""


def first_identity_field(
    model: IdentityModelConfig,
    mean_anchors: Float[Tensor, "39 3"],
    initial: NeuralHead | None,
    *,
    seed: int,
    n_ambient: int = 0,
) -> IdentityField:
    """Give a field with random weights, or a copy of an earlier model's, on the device of the anchors."""
    if initial is not None:
        _check_same(initial.identity.settings, model, "train_identity.model")
        return copy.deepcopy(initial.identity).to(mean_anchors.device).requires_grad_()
    with _seeded(seed, "identity weights"):
        field = build_identity_field(model, mean_anchors.cpu(), n_ambient=n_ambient)
    return field.to(mean_anchors.device)


def first_expression_field(
    settings: TrainExpressionConfig, n_identity: int, initial: NeuralHead | None, *, seed: int, device: torch.device
) -> ExpressionField:
    """Give a field with random weights, or a copy of an earlier model's."""
    if initial is not None and initial.expression is not None:
        _check_same(initial.expression.settings, settings.model, "train_expression.model")
        return copy.deepcopy(initial.expression).to(device).requires_grad_()
    with _seeded(seed, "expression weights"):
        return ExpressionField(settings.model, n_identity).to(device)


def first_codebook(
    names: Sequence[str],
    n_code: int,
    spread: float,
    settings: OptimiserConfig,
    *,
    seed: int,
    purpose: str,
    device: torch.device,
    known: dict[str, Float[Tensor, " n_code"]] | None = None,
) -> Codebook:
    """Give random codes, but the earlier ones of those who are `known`."""
    generator = torch.Generator(device).manual_seed(seed_of(seed, f"{purpose} codes", 0))
    book = Codebook.random(len(names), n_code, spread, settings, generator=generator)
    for row, name in enumerate(names):
        if known and name in known:
            book.codes[row] = known[name].to(device)
    return book


def codes_by_name(names: Sequence[str], codes: Float[Tensor, "n n_code"]) -> dict[str, Float[Tensor, " n_code"]]:
    """Give codes by the names of their subjects or scans."""
    return dict(zip(names, codes, strict=True))


def run_key(settings: Section, seed: int, names: Sequence[Any], initial: NeuralHead | None, *more: Any) -> str:
    """Name all that a run depends on but its length, so that no state of another run is taken for its own."""
    start = None
    if initial is not None:
        weights = sum(float(parameter.detach().double().abs().sum()) for parameter in initial.parameters())
        start = [list(initial.subjects), list(initial.scans), weights]
    return digest_of([settings.model_dump(mode="json", exclude=NOT_IN_KEY), seed, names, start, *more])


def _check_same(found: Section, wanted: Section, where: str) -> None:
    differing = [name for name in type(wanted).model_fields if getattr(found, name) != getattr(wanted, name)]
    if differing:
        told = ", ".join(f"{name} = {getattr(found, name)}" for name in differing)
        raise TrainingError(
            f"the model to start from was built with other settings than these: {told}. Its weights fit no other; "
            f"set {where} to the same, or start without it."
        )


@contextlib.contextmanager
def _seeded(seed: int, purpose: str) -> Iterator[None]:
    """Let PyTorch's initial weights depend on the seed only, and its global generator be as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, purpose, 0))
        yield
