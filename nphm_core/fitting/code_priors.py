"""Quadratic priors of codes as matrices, which normal equations are made of."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nphm_core.config import FitConfig
from nphm_core.fitting.variables import Basis
from nphm_core.models.identity_field import N_PAIRS, EnsembleField
from nphm_core.models.neural_head import NeuralHead
from nphm_core.models.priors import GaussianPrior


@dataclass(frozen=True)
class QuadraticPrior:
    """`(code - mean)' precision (code - mean) + code' coupling code`."""

    mean: Float[Tensor, " n_code"]
    precision: Float[Tensor, "n_code n_code"]
    coupling: Float[Tensor, "n_code n_code"]

    @classmethod
    def of(cls, prior: GaussianPrior, weight: float, coupling: Float[Tensor, "n_code n_code"]) -> "QuadraticPrior":
        """Take a Gaussian's squared Mahalanobis distance, times a weight."""
        return cls(prior.mean, weight * prior.precision(), coupling)

    def value(self, code: Float[Tensor, "n n_code"]) -> Float[Tensor, " n"]:
        """Give the prior's part of the energy."""
        offset = (code - self.mean).double()
        own = code.double()
        out = ((offset @ self.precision) * offset).sum(dim=1) + ((own @ self.coupling) * own).sum(dim=1)
        return out.to(code.dtype)

    def along(self, code: Float[Tensor, "n n_code"], basis: Basis) -> tuple[Float[Tensor, "k k"], Float[Tensor, "n k"]]:
        """Give half the Hessian and half the gradient in steps along a basis, in float64."""
        hessian = basis.along(basis.along(self.precision + self.coupling).T)
        gradient = (code - self.mean).double() @ self.precision + code.double() @ self.coupling
        return hessian, basis.along(gradient)


@dataclass(frozen=True)
class CodePriors:
    """What is expected of both codes."""

    identity: QuadraticPrior
    expression: QuadraticPrior

    @classmethod
    def of(cls, head: NeuralHead, settings: FitConfig) -> "CodePriors":
        """Take those that a model learnt from its training codes, and the pull between local codes of a pair."""
        expression = head.expression_prior
        nothing = torch.zeros(expression.n_code, expression.n_code, dtype=torch.float64, device=expression.mean.device)
        return cls(
            QuadraticPrior.of(head.identity_prior, settings.weight_identity, _symmetry(head, settings.weight_symmetry)),
            QuadraticPrior.of(expression, settings.weight_expression, nothing),
        )


def _symmetry(head: NeuralHead, weight: float) -> Float[Tensor, "n_code n_code"]:
    """Give the matrix of the summed squared differences between the local codes of mirrored members."""
    field = head.identity
    mean = head.identity_prior.mean
    out = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
    if weight == 0 or not isinstance(field, EnsembleField):
        return out
    n_global, n_local = field.settings.n_global, field.settings.n_local
    first = n_global + torch.arange(2 * N_PAIRS * n_local, device=mean.device).view(N_PAIRS, 2, n_local)[:, 0].flatten()
    second = first + n_local
    out[first, first] += weight
    out[second, second] += weight
    out[first, second] -= weight
    out[second, first] -= weight
    return out
