"""A neural parametric head model: identity field, expression field, the codes of its training set, their priors."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nphm_core.config import ExpressionModelConfig, IdentityModelConfig
from nphm_core.models.expression_field import ExpressionField
from nphm_core.models.identity_field import IdentityField, build_identity_field
from nphm_core.models.priors import GaussianPrior, Shrinkage, choose_shrinkage


class NeuralHead(nn.Module):
    """All that is needed to turn codes into heads; canonical units, codes are one row a head."""

    identity_codes: Tensor
    """Codes of the training subjects, in the order of `subjects`."""
    expression_codes: Tensor
    """Codes of the training scans, in the order of `scans`."""

    def __init__(
        self,
        identity: IdentityField,
        expression: ExpressionField | None,
        *,
        identity_codes: Float[Tensor, "n_subjects n_identity"],
        expression_codes: Float[Tensor, "n_scans n_expression"] | None = None,
        subjects: tuple[str, ...] = (),
        scans: tuple[str, ...] = (),
        template_hash: str = "",
        facts: dict[str, Any] | None = None,
        shrinkage: tuple[Shrinkage | None, Shrinkage | None] = (None, None),
    ) -> None:
        """Put a model together; without an expression field it knows canonical heads only.

        `shrinkage` says how far the covariances of identity and expression codes are trusted; None chooses anew.
        """
        super().__init__()
        self.identity, self.expression = identity, expression
        if expression_codes is None:
            expression_codes = identity_codes.new_zeros(0, expression.n_code if expression else 0)
        self.register_buffer("identity_codes", identity_codes.detach().clone())
        self.register_buffer("expression_codes", expression_codes.detach().clone())
        self.subjects, self.scans = tuple(subjects), tuple(scans)
        self.template_hash, self.facts = template_hash, dict(facts or {})
        distance = identity.code_distance()
        self.shrinkage = (
            shrinkage[0] or choose_shrinkage(self.identity_codes, distance),
            shrinkage[1] or choose_shrinkage(self.expression_codes),
        )
        self.identity_prior = GaussianPrior.from_codes(self.identity_codes, self.shrinkage[0], distance)
        self.expression_prior = GaussianPrior.from_codes(self.expression_codes, self.shrinkage[1])

    @property
    def is_backward(self) -> bool:
        """Whether its expression field goes from posed to canonical space."""
        return self.expression is not None and self.expression.is_backward

    def condition(self, identity_code: Float[Tensor, "n_heads n_identity"]) -> Float[Tensor, "n_heads n_condition"]:
        """Give what the expression field needs to know of an identity."""
        return self._expression().condition(identity_code, self.identity.anchors(identity_code))

    def posed(
        self,
        points: Float[Tensor, "n_heads n_points 3"],
        identity_code: Float[Tensor, "n_heads n_identity"],
        expression_code: Float[Tensor, "n_heads n_expression"],
    ) -> Float[Tensor, "n_heads n_points 3"]:
        """Move canonical points with an expression (forward models; a backward one raises ValueError)."""
        if self.is_backward:
            raise ValueError("a backward model has no map from canonical to posed space; use posed_sdf")
        condition = self.condition(identity_code)
        return points + self._expression().deformation(points, condition, expression_code)

    def posed_sdf(
        self,
        points: Float[Tensor, "n_heads n_points 3"],
        identity_code: Float[Tensor, "n_heads n_identity"],
        expression_code: Float[Tensor, "n_heads n_expression"],
    ) -> Float[Tensor, "n_heads n_points"]:
        """Give the canonical signed distance of posed points (backward models; a forward one raises ValueError)."""
        if not self.is_backward:
            raise ValueError("a forward model has no signed distance in posed space; find canonical points first")
        warp = self._expression().warp(points, self.condition(identity_code), expression_code)
        return self.identity.sdf(points + warp.offset, identity_code, warp.ambient)

    def _expression(self) -> ExpressionField:
        if self.expression is None:
            raise ValueError("this model has no expression field; train one, or use canonical heads only")
        return self.expression


def build_head(
    identity: IdentityModelConfig,
    expression: ExpressionModelConfig | None,
    mean_anchors: Float[Tensor, "39 3"],
    *,
    generator: torch.Generator,
) -> NeuralHead:
    """Make a head model with random weights that depend on the generator only, and no codes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        n_ambient = expression.n_ambient if expression is not None and expression.direction == "backward" else 0
        field = build_identity_field(identity, mean_anchors, n_ambient=n_ambient)
        deformation = None if expression is None else ExpressionField(expression, field.n_code)
    return NeuralHead(field, deformation, identity_codes=mean_anchors.new_zeros(0, field.n_code))
