"""What a person asks of a model with sliders and lists, and the codes that this means.

Codes are one row, as long as the model's; sliders count in standard deviations along the principal axes that the codes
of the training set vary along.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nphm_core.models.codes import GLOBAL, GROUPS, CodeLayout, interpolate_codes, swap_regions, transfer_expression
from nphm_core.models.priors import GaussianPrior

MEAN = "mean"
CANONICAL = "canonical"
"""The expression of canonical space: no deformation at all."""
NOBODY = "-"


@dataclass(frozen=True)
class HeadWish:
    """One setting of all controls."""

    subject: str = MEAN
    towards: str = NOBODY
    """Another subject to go towards."""
    share: float = 0.0
    """0 is `subject`, 1 is `towards`."""
    identity_axes: tuple[float, ...] = ()
    """Standard deviations along the first axes."""
    regions: tuple[str, ...] = ()
    """Taken from `regions_from`."""
    regions_from: str = NOBODY
    expression: str = CANONICAL
    """A training scan, whoever's it is; `mean`; or `canonical`."""
    strength: float = 1.0
    """0 is the mean expression, 1 the chosen one."""
    carried: bool = False
    """Carry over only what the scan's expression adds to its subject's other scan, `carried_from`."""
    carried_from: str = NOBODY
    expression_axes: tuple[float, ...] = ()

    @property
    def is_canonical(self) -> bool:
        """Whether it asks for no deformation."""
        return self.expression == CANONICAL and not any(self.expression_axes)

    @property
    def name(self) -> str:
        """What it is, for the names of files."""
        return f"{self.subject}-{self.expression}".replace("/", "-")


class ModelCodes:
    """The codes that a model knows by name, and its principal axes."""

    def __init__(self, head: Any) -> None:
        """Take a NeuralHead or a LinearHead."""
        self.subjects: tuple[str, ...] = tuple(head.subjects)
        self.scans: tuple[str, ...] = tuple(head.scans)
        self._identity_codes = torch.as_tensor(head.identity_codes)
        self._expression_codes = torch.as_tensor(head.expression_codes)
        self._identity_prior = _prior(head, "identity", self._identity_codes)
        self._expression_prior = _prior(head, "expression", self._expression_codes)
        self._layout = _layout(head)

    @property
    def n_identity_axes(self) -> int:
        """Number of axes that identities vary along."""
        return len(self._identity_prior.deviation)

    @property
    def n_expression_axes(self) -> int:
        """Number of axes that expressions vary along."""
        return len(self._expression_prior.deviation)

    @property
    def regions(self) -> tuple[str, ...]:
        """Regions that can be taken from another subject; none for codes without parts."""
        return () if self._layout is None else (*GROUPS, GLOBAL)

    def identity(self, wish: HeadWish) -> Float[Tensor, " n_identity"]:
        """Give the identity code: subject, way to another, axes, then the regions of a third."""
        code = self._subject(wish.subject)
        if wish.towards != NOBODY and wish.share:
            other = self._subject(wish.towards)
            code = (
                (1 - wish.share) * code + wish.share * other if wish.share < 1 else interpolate_codes(code, other, 2)[1]
            )
        code = code + _along(self._identity_prior, wish.identity_axes)
        if wish.regions and wish.regions_from != NOBODY and self._layout is not None:
            source = self._subject(wish.regions_from)
            code = swap_regions(code[None], source[None], wish.regions, self._layout)[0]
        return code

    def expression(self, wish: HeadWish) -> Float[Tensor, " n_expression"] | None:
        """Give the expression code; None for canonical space."""
        if wish.is_canonical:
            return None
        mean = self._expression_prior.mean
        chosen = mean
        if wish.expression not in (CANONICAL, MEAN):
            chosen = self._expression_codes[self.scans.index(wish.expression)]
            if wish.carried and wish.carried_from != NOBODY:
                source = self._expression_codes[self.scans.index(wish.carried_from)]
                target = self._neutral_of(wish.subject, wish.carried_from)
                chosen = transfer_expression(chosen[None], source_neutral=source[None], target_neutral=target[None])[0]
        return mean + wish.strength * (chosen - mean) + _along(self._expression_prior, wish.expression_axes)

    def _neutral_of(self, subject: str, like: str) -> Float[Tensor, " n_expression"]:
        """Give the code of a subject's own scan with the same expression; the mean where there is none."""
        own = f"{subject}/{like.split('/')[-1]}"
        return self._expression_codes[self.scans.index(own)] if own in self.scans else self._expression_prior.mean

    def _subject(self, name: str) -> Float[Tensor, " n_identity"]:
        return self._identity_prior.mean if name == MEAN else self._identity_codes[self.subjects.index(name)]


def _prior(head: Any, kind: str, codes: Tensor) -> GaussianPrior:
    # A linear head has codes, but no module for its prior.
    prior = getattr(head, f"{kind}_prior", None)
    return prior if prior is not None else GaussianPrior.from_codes(codes)


def _layout(head: Any) -> CodeLayout | None:
    identity = getattr(head, "identity", None)
    if identity is None:
        return None
    try:
        return CodeLayout.of(identity.settings)
    except (ValueError, AttributeError):
        return None


def _along(prior: GaussianPrior, axes: tuple[float, ...]) -> Float[Tensor, " n_code"]:
    """Give the offset of so many standard deviations along the first axes."""
    n = min(len(axes), len(prior.deviation))
    share = prior.mean.new_tensor(axes[:n])
    return (prior.basis[:, :n] * prior.deviation[:n]) @ share
