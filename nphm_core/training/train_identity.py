"""The first stage: the identity field and the codes of all subjects, from samples of their canonical neutrals."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nphm_core.config import TrainIdentityConfig
from nphm_core.models.identity_field import IdentityField
from nphm_core.models.neural_head import NeuralHead
from nphm_core.training.journal import Entry
from nphm_core.training.loop import Plan, Run, Trainer
from nphm_core.training.losses import identity_terms
from nphm_core.training.objectives import IdentityObjective
from nphm_core.training.processes import Processes
from nphm_core.training.samples import IdentitySamples
from nphm_core.training.start import codes_by_name, first_codebook, first_identity_field, run_key

_MIN_VALIDATION_INTERVAL, _MAX_VALIDATION_INTERVAL = 8, 16


@dataclass(frozen=True)
class TrainedIdentity:
    """What the first stage gives."""

    head: NeuralHead
    """Without an expression field; its codes are those of the training subjects."""
    held_out_subjects: tuple[str, ...]
    held_out_codes: Float[Tensor, "n_held_out n_code"]
    """Found with frozen weights; they are no part of the head, whose prior they would tint."""
    last: Entry | None
    """The log's last entry; None where nothing was left to do."""


def train_identity(
    samples: IdentitySamples,
    settings: TrainIdentityConfig,
    *,
    seed: int,
    validation: IdentitySamples | None = None,
    initial: NeuralHead | None = None,
    template_hash: str = "",
    n_ambient: int = 0,
    run: Run | None = None,
    compiled: bool = False,
) -> TrainedIdentity:
    """Train on the device that the samples lie on.

    `validation` are held-out subjects. From `initial` come the weights, and the codes of subjects it knows. A field for
    a backward expression field needs its number of ambient coordinates, which this stage keeps at zero.
    """
    processes = Processes.current()
    field = first_identity_field(settings.model, samples.mean_anchors, initial, seed=seed, n_ambient=n_ambient)
    known = {} if initial is None else codes_by_name(initial.subjects, initial.identity_codes)
    objective = identity_objective(field, samples, settings, known, seed, processes, compiled=compiled)
    held_out, names = None, (samples.subjects, () if validation is None else validation.subjects)
    if validation is not None:
        held_out = identity_objective(
            field, validation, settings, {}, seed, processes, purpose="identity held out", compiled=compiled
        )
    plan = _plan(settings, objective.order.steps_an_epoch)
    last = Trainer(plan, field, objective, held_out, processes).run(
        run or Run(), key=run_key(settings, seed, names, initial, n_ambient)
    )
    codes = objective.codebooks["identity"].codes
    head = NeuralHead(field, None, identity_codes=codes, subjects=samples.subjects, template_hash=template_hash)
    found = codes[:0] if held_out is None else held_out.codebooks["identity"].codes
    return TrainedIdentity(head, names[1], found, last)


def _plan(settings: TrainIdentityConfig, steps_an_epoch: int) -> Plan:
    return Plan(
        stage="identity",
        n_steps=settings.n_steps,
        log_every=settings.log_every,
        checkpoint_every=settings.checkpoint_every,
        optimiser=settings.optimiser,
        precision=settings.precision,
        validate_every=validation_interval(steps_an_epoch),
        captured=settings.captured,
    )


def validation_interval(steps_an_epoch: int) -> int:
    """Give the steps between two of held-out codes: once an epoch, as NPHM's move, but neither always nor hardly ever.

    In an epoch of thousands of scans held-out codes would move too seldom for their losses to mean anything.
    """
    return min(max(steps_an_epoch, _MIN_VALIDATION_INTERVAL), _MAX_VALIDATION_INTERVAL)


def identity_objective(
    field: IdentityField,
    samples: IdentitySamples,
    settings: TrainIdentityConfig,
    known: dict[str, Float[Tensor, " n_code"]],
    seed: int,
    processes: Processes,
    *,
    purpose: str = "identity",
    compiled: bool = False,
) -> IdentityObjective:
    """Make the objective of some subjects, whose codes start at random, or where they are `known`."""
    codebook = first_codebook(
        samples.subjects,
        field.n_code,
        settings.code_spread,
        settings.optimiser,
        seed=seed,
        purpose=purpose,
        device=samples.device,
        known=known,
    )
    terms = torch.compile(identity_terms) if compiled else identity_terms
    return IdentityObjective(
        field, samples, codebook, settings, seed=seed, purpose=purpose, processes=processes, terms=terms
    )
