"""What each stage makes smaller: the rows of a step, what is drawn for them, and the loss of this process's part."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nphm_core.config import TrainExpressionConfig, TrainIdentityConfig
from nphm_core.models.dispatch import Room, is_fused
from nphm_core.models.expression_field import ExpressionField
from nphm_core.models.identity_field import N_ANCHORS, EnsembleField, IdentityField
from nphm_core.training.draws import BatchOrder, Draws, normal, uniform
from nphm_core.training.losses import (
    ExpressionTerms,
    IdentityTerms,
    expression_terms,
    identity_terms,
    points_in_space,
)
from nphm_core.training.optimisers import Codebook
from nphm_core.training.pairs import PairBatch, PairSamples
from nphm_core.training.processes import Processes
from nphm_core.training.samples import GroupSizes, IdentityBatch, IdentitySamples

Codes = Mapping[str, Float[Tensor, "n_batch n_code"]]


class IdentityObjective:
    """Identity codes, and the weights of an identity field, from samples of the signed distance."""

    def __init__(
        self,
        field: IdentityField,
        samples: IdentitySamples,
        codebook: Codebook,
        settings: TrainIdentityConfig,
        *,
        seed: int,
        purpose: str,
        processes: Processes,
        terms: Callable[..., IdentityTerms] = identity_terms,
    ) -> None:
        """Prepare; `purpose` sets the random numbers apart from other objectives'."""
        self.codebooks = {"identity": codebook}
        self._field, self._samples, self._settings, self._terms = field, samples, settings, terms
        n_subjects = len(samples.subjects)
        self.order = BatchOrder(n_subjects, settings.batch_subjects, seed=seed, purpose=purpose, device=samples.device)
        self._draws = Draws(seed, purpose, samples.device)
        self._part = processes.part(self.order.batch)
        self._sizes = GroupSizes.of(settings)

    def rows(self, step: int) -> dict[str, Int[Tensor, " n_batch"]]:
        """Give the subjects of a step."""
        return {"identity": self.order.at(step)}

    @property
    def room(self) -> Room | None:
        """Give the room that a captured step needs; None where it needs none."""
        return self._field.room if isinstance(self._field, EnsembleField) else None

    @property
    def is_capturable(self) -> bool:
        """Whether a step is the same operations on tensors of the same shapes each time."""
        if not isinstance(self._field, EnsembleField):
            return True
        batch = self.draw(0)
        return is_fused(self._field, batch.points)

    def draw(self, step: int) -> IdentityBatch:
        """Draw the samples of a step."""
        return self._samples.draw(self.order, step, self._sizes, self._part, generator=self._draws.at(step))

    def loss_of(self, drawn: IdentityBatch, codes: Codes) -> dict[str, Tensor]:
        """Give the terms of METHOD 6.1 for what was drawn."""
        terms = self._terms(self._field, drawn, self._part(codes["identity"]), self._settings)
        return _shared(terms, self._part.share)

    def loss(self, step: int, codes: Codes) -> dict[str, Tensor]:
        """Give the terms of a step."""
        return self.loss_of(self.draw(step), codes)


@dataclass(frozen=True)
class ExpressionDraw:
    """What a step of the second stage draws."""

    pairs: PairBatch
    space: Float[Tensor, "n_scans n_space 3"]
    noise: Float[Tensor, "n_scans n_condition"]


class ExpressionObjective:
    """Expression codes, and the weights of an expression field, from pairs of registered meshes."""

    def __init__(
        self,
        field: ExpressionField,
        pairs: PairSamples,
        codebook: Codebook,
        identity: "FrozenIdentities",
        settings: TrainExpressionConfig,
        *,
        seed: int,
        purpose: str,
        processes: Processes,
        terms: Callable[..., ExpressionTerms] = expression_terms,
    ) -> None:
        """Prepare; `purpose` sets the random numbers apart from other objectives'."""
        self.codebooks = {"expression": codebook}
        self._field, self._pairs, self._settings, self._terms = field, pairs, settings, terms
        self._identity = identity
        self.order = BatchOrder(len(pairs.scans), settings.batch_scans, seed=seed, purpose=purpose, device=pairs.device)
        self._draws = Draws(seed, purpose, pairs.device)
        self._part = processes.part(self.order.batch)
        self.room: Room | None = None
        self.is_capturable = True

    def rows(self, step: int) -> dict[str, Int[Tensor, " n_batch"]]:
        """Give the scans of a step."""
        return {"expression": self.order.at(step)}

    def draw(self, step: int) -> ExpressionDraw:
        """Draw the pairs of a step, points in space, and the noise."""
        part, generator = self._part, self._draws.at(step)
        batch = self._pairs.draw(self.order.at(step), self._settings.n_pairs, part, generator=generator)
        space = points_in_space(uniform((self._settings.n_space, 3), part, generator))
        noise = self._settings.model.condition_noise * normal((self._field.n_condition,), part, generator)
        return ExpressionDraw(batch, space, noise)

    def loss_of(self, drawn: ExpressionDraw, codes: Codes) -> dict[str, Tensor]:
        """Give the terms of METHOD 6.2; `codes` may hold all identity codes too, which are frozen otherwise."""
        identity_code, anchors = self._identity.of(drawn.pairs.subject, codes.get("identity"))
        own = self._part(codes["expression"])
        terms = self._terms(
            self._field, drawn.pairs, identity_code, anchors, own, drawn.space, drawn.noise, self._settings
        )
        return _shared(terms, self._part.share)

    def loss(self, step: int, codes: Codes) -> dict[str, Tensor]:
        """Give the terms of a step."""
        return self.loss_of(self.draw(step), codes)


class FrozenIdentities:
    """The identity codes of all subjects with their anchors, computed once; or anew from codes that are trained too."""

    def __init__(self, field: IdentityField, codes: Float[Tensor, "n_subjects n_code"]) -> None:
        """Compute the anchors of all codes."""
        self._field = field
        with torch.no_grad():
            # One table, so that a step takes its rows once.
            self._table = torch.cat([codes, field.anchors(codes).flatten(1)], dim=1)

    def of(
        self, subject: Int[Tensor, " n_scans"], codes: Float[Tensor, "n_subjects n_code"] | None = None
    ) -> tuple[Float[Tensor, "n_scans n_code"], Float[Tensor, "n_scans 39 3"]]:
        """Give codes and anchors of some subjects, of `codes` where they are given."""
        if codes is None:
            code, anchors = self._table[subject].split([self._field.n_code, 3 * N_ANCHORS], dim=1)
            return code, anchors.unflatten(1, (N_ANCHORS, 3))
        return codes[subject], self._field.anchors(codes[subject])


class JointObjective:
    """Both fields and all codes together: the sum of both losses."""

    def __init__(self, identity: IdentityObjective, expression: ExpressionObjective) -> None:
        """Join two objectives; the expression's scans must belong to the identity's subjects."""
        self.codebooks = identity.codebooks | expression.codebooks
        self._identity, self._expression = identity, expression
        codes = identity.codebooks["identity"].codes
        self._everyone = torch.arange(len(codes), device=codes.device)

    def rows(self, step: int) -> dict[str, Int[Tensor, " n_batch"]]:
        """Give the scans of a step and all subjects: those whom the step does not touch have no gradient."""
        return {"identity": self._everyone} | self._expression.rows(step)

    def loss(self, step: int, codes: Codes) -> dict[str, Tensor]:
        """Give the terms of both stages, each with its stage before its name."""
        own = self._identity.rows(step)["identity"]
        identity = self._identity.loss(step, {"identity": codes["identity"][own]})
        expression = self._expression.loss(step, codes)
        total = identity.pop("total") + expression.pop("total")
        named = {f"identity.{name}": value for name, value in identity.items()}
        return named | {f"expression.{name}": value for name, value in expression.items()} | {"total": total}


def _shared(terms: IdentityTerms | ExpressionTerms, share: float) -> dict[str, Tensor]:
    return terms.named() if share == 1 else {name: share * value for name, value in terms.named().items()}
