"""The second stage: the expression field and the codes of all scans, from pairs of registered meshes.

The identity field and its codes are frozen: no gradient of theirs is computed. Joint steps may follow that train both
fields and all codes together.
"""

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nphm_core.config import TrainExpressionConfig, TrainIdentityConfig
from nphm_core.errors import TrainingError
from nphm_core.models.expression_field import ExpressionField
from nphm_core.models.identity_field import IdentityField
from nphm_core.models.neural_head import NeuralHead
from nphm_core.training.journal import Entry
from nphm_core.training.loop import Plan, Run, Trainer
from nphm_core.training.losses import expression_terms
from nphm_core.training.objectives import ExpressionObjective, FrozenIdentities, JointObjective
from nphm_core.training.pairs import PairSamples
from nphm_core.training.processes import Processes
from nphm_core.training.samples import IdentitySamples
from nphm_core.training.start import codes_by_name, first_codebook, first_expression_field, run_key
from nphm_core.training.train_identity import identity_objective, validation_interval


@dataclass(frozen=True)
class JointData:
    """What joint steps need of the first stage; the samples' subjects are those of the head, in its order."""

    samples: IdentitySamples
    settings: TrainIdentityConfig


@dataclass(frozen=True)
class HeldOutScans:
    """Scans of held-out subjects, with the identity codes that the first stage found for these."""

    pairs: PairSamples
    identity_codes: Float[Tensor, "n_held_out n_identity"]


@dataclass(frozen=True)
class TrainedExpression:
    """What the second stage gives."""

    head: NeuralHead
    held_out_scans: tuple[str, ...]
    held_out_codes: Float[Tensor, "n_held_out n_expression"]
    """Found with frozen weights."""
    last: Entry | None
    """The log's last entry; None where nothing was left to do."""


def train_expression(
    head: NeuralHead,
    pairs: PairSamples,
    settings: TrainExpressionConfig,
    *,
    seed: int,
    validation: HeldOutScans | None = None,
    initial: NeuralHead | None = None,
    joint: JointData | None = None,
    run: Run | None = None,
    compiled: bool = False,
) -> TrainedExpression:
    """Train on the device that the pairs lie on; their subjects are rows of the head's identity codes.

    `head` comes from the first stage and stays as it is. From `initial` come the weights, and the codes of scans it
    knows. `joint` is needed where the settings have joint steps.
    """
    _check(head, settings, joint)
    processes, device = Processes.current(), pairs.device
    head = copy.deepcopy(head).to(device).requires_grad_(False)
    field = first_expression_field(settings, head.identity.n_code, initial, seed=seed, device=device)
    known = {} if initial is None else codes_by_name(initial.scans, initial.expression_codes)
    made = _Stage(head.identity, field, settings, seed, processes, compiled)
    objective = made.objective(pairs, head.identity_codes, known, "expression")
    held_out = None
    if validation is not None:
        codes = validation.identity_codes.to(device)
        held_out = made.objective(validation.pairs, codes, {}, "expression held out")
    names = (pairs.scans, () if validation is None else validation.pairs.scans, head.subjects)
    run = run or Run()
    key = run_key(settings, seed, names, initial, run_key(settings.model, 0, (), head))
    plan = _plan(settings, objective.order.steps_an_epoch)
    last = Trainer(plan, field, objective, held_out, processes).run(run, key=key)
    identity_codes = head.identity_codes
    if joint is not None and settings.joint_steps:
        identity_codes, last = _train_jointly(made, head, joint, objective, plan, run, key)
    codes = objective.codebooks["expression"].codes
    found = codes[:0] if held_out is None else held_out.codebooks["expression"].codes
    return TrainedExpression(_assembled(head, field, identity_codes, pairs.scans, codes), names[1], found, last)


def _assembled(
    head: NeuralHead, field: ExpressionField, identity_codes: Tensor, scans: tuple[str, ...], codes: Tensor
) -> NeuralHead:
    return NeuralHead(
        head.identity,
        field,
        identity_codes=identity_codes,
        expression_codes=codes,
        subjects=head.subjects,
        scans=scans,
        template_hash=head.template_hash,
        facts=head.facts,
        # It takes seconds to choose, and only a joint stage gives other codes.
        shrinkage=(head.shrinkage[0] if identity_codes is head.identity_codes else None, None),
    )


@dataclass(frozen=True)
class _Stage:
    """What all objectives of the stage share."""

    identity: IdentityField
    field: ExpressionField
    settings: TrainExpressionConfig
    seed: int
    processes: Processes
    compiled: bool

    def objective(
        self,
        pairs: PairSamples,
        identity_codes: Float[Tensor, "n_subjects n_identity"],
        known: dict[str, Float[Tensor, " n_code"]],
        purpose: str,
    ) -> ExpressionObjective:
        settings = self.settings
        codebook = first_codebook(
            pairs.scans,
            self.field.n_code,
            settings.code_spread,
            settings.optimiser,
            seed=self.seed,
            purpose=purpose,
            device=pairs.device,
            known=known,
        )
        return ExpressionObjective(
            self.field,
            pairs,
            codebook,
            FrozenIdentities(self.identity, identity_codes),
            settings,
            seed=self.seed,
            purpose=purpose,
            processes=self.processes,
            terms=torch.compile(expression_terms) if self.compiled else expression_terms,
        )


def _plan(settings: TrainExpressionConfig, steps_an_epoch: int) -> Plan:
    return Plan(
        stage="expression",
        n_steps=settings.n_steps,
        log_every=settings.log_every,
        checkpoint_every=settings.checkpoint_every,
        optimiser=settings.optimiser,
        precision=settings.precision,
        validate_every=validation_interval(steps_an_epoch),
        captured=settings.captured,
    )


def _train_jointly(
    stage: _Stage,
    head: NeuralHead,
    joint: JointData,
    expression: ExpressionObjective,
    plan: Plan,
    run: Run,
    key: str,
) -> tuple[Float[Tensor, "n_subjects n_identity"], Entry | None]:
    """Train both fields on from where they are, with the second stage's last rates; give the identity codes."""
    head.identity.requires_grad_()
    known = codes_by_name(head.subjects, head.identity_codes)
    identity = identity_objective(
        head.identity, joint.samples, joint.settings, known, stage.seed, stage.processes, purpose="joint identity"
    )
    both = nn.ModuleDict({"identity": head.identity, "expression": stage.field})
    plan = replace(plan, stage="joint", n_steps=stage.settings.joint_steps, first_step=plan.n_steps)
    trainer = Trainer(plan, both, JointObjective(identity, expression), None, stage.processes)
    last = trainer.run(run, key=run_key(joint.settings, plan.first_step, [key], None))
    return identity.codebooks["identity"].codes, last


def _check(head: NeuralHead, settings: TrainExpressionConfig, joint: JointData | None) -> None:
    n_ambient = settings.model.n_ambient if settings.model.direction == "backward" else 0
    if head.identity.n_ambient != n_ambient:
        raise TrainingError(
            f"the identity field has {head.identity.n_ambient} ambient coordinates, this expression field gives "
            f"{n_ambient}; expected as many. Train the identity with that number, or change train_expression.model."
        )
    if settings.joint_steps and joint is None:
        raise TrainingError(
            f"{settings.joint_steps} joint steps are asked for without the samples of the first stage; expected both. "
            "Give the results that the identity was trained on, or set train_expression.joint_steps to 0."
        )
    if joint is not None and joint.samples.subjects != head.subjects:
        raise TrainingError(
            "the samples for the joint steps are not of the subjects that the identity was trained on; expected the "
            "same in the same order. Use the same results, or train the identity again."
        )
