"""Operations on codes: draw, interpolate, swap regions, mirror, carry expressions to another subject.

An identity code of the ensemble is [global | a local part for each of 39 anchors | the background's]; anchors 2k and
2k + 1 are a mirrored pair for k below 16. Local parts say what an anchor's surroundings look like, the global part
where the anchors lie. Nothing here changes its arguments; codes are one row a head.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nphm_core.config import IdentityModelConfig
from nphm_core.models.identity_field import BACKGROUND, N_MEMBERS, N_PAIRS
from nphm_core.models.priors import GaussianPrior

GROUPS: dict[str, tuple[int, ...]] = {
    "mouth": (0, 1, 34, 35),
    "nose": (14, 15, 33, 36),
    "eyes": (10, 11, 12, 13),
    "brows": (8, 9, 37),
    "cheeks": (6, 7),
    "jaw": (2, 3, 4, 5, 16, 17, 38),
    "ears": (20, 21),
    "forehead": (18, 19, 22, 23),
    "top": (24, 25),
    "back": (26, 27, 28, 29),
    "neck": (30, 31, 32),
    "background": (BACKGROUND,),
}
"""Members of each region; they divide all members, and pairs stay together."""

GLOBAL = "global"
"""Name of the part that is no member: the global code, which places the anchors."""


@dataclass(frozen=True)
class CodeLayout:
    """Where the parts of an ensemble's identity code lie."""

    n_global: int = 64
    n_local: int = 32

    @classmethod
    def of(cls, settings: IdentityModelConfig) -> "CodeLayout":
        """Give the layout of a model; ValueError for one global network, whose code has no parts."""
        if settings.kind != "ensemble":
            raise ValueError(f"the codes of a {settings.kind} model have no parts; use an ensemble")
        return cls(settings.n_global, settings.n_local)

    @property
    def n_code(self) -> int:
        """Length of a code."""
        return self.n_global + N_MEMBERS * self.n_local

    def local(self, code: Float[Tensor, "n n_code"]) -> Float[Tensor, "n 40 n_local"]:
        """Give the local parts, as a view."""
        if code.shape[1] != self.n_code:
            raise ValueError(f"the codes have {code.shape[1]} numbers; expected {self.n_code}")
        return code[:, self.n_global :].unflatten(1, (N_MEMBERS, self.n_local))


def sample_codes(
    prior: GaussianPrior, n: int, *, generator: torch.Generator, temperature: float = 1.0
) -> Float[Tensor, "n n_code"]:
    """Draw codes from a prior; a temperature below 1 stays nearer to its mean, 0 is the mean."""
    if n < 0 or not 0 <= temperature < float("inf"):
        raise ValueError(f"n is {n} and the temperature {temperature}; expected numbers not below 0")
    return prior.sample(n, generator=generator, temperature=temperature)


def interpolate_codes(
    first: Float[Tensor, " n_code"], last: Float[Tensor, " n_code"], n_steps: int
) -> Float[Tensor, "n_steps n_code"]:
    """Give codes on the straight line between two, both included."""
    if n_steps < 2:
        raise ValueError(f"{n_steps} steps; expected at least 2, the first and the last")
    t = torch.linspace(0, 1, n_steps, dtype=first.dtype, device=first.device)[:, None]
    # This form gives both ends without rounding.
    return (1 - t) * first + t * last


def swap_regions(
    code: Float[Tensor, "n n_code"],
    source: Float[Tensor, "n n_code"],
    regions: tuple[str, ...],
    layout: CodeLayout | None = None,
) -> Float[Tensor, "n n_code"]:
    """Give codes with the local parts of regions, by the names in GROUPS, taken from `source`.

    `global` takes the global part, and with it the places of all anchors.
    """
    layout = layout or CodeLayout()
    unknown = [name for name in regions if name not in GROUPS and name != GLOBAL]
    if unknown:
        raise ValueError(f"the regions {', '.join(unknown)} are unknown; known are {', '.join((*GROUPS, GLOBAL))}")
    out = code.clone()
    members = [member for name in regions if name != GLOBAL for member in GROUPS[name]]
    layout.local(out)[:, members] = layout.local(source)[:, members]
    if GLOBAL in regions:
        out[:, : layout.n_global] = source[:, : layout.n_global]
    return out


def mirrored_code(code: Float[Tensor, "n n_code"], layout: CodeLayout | None = None) -> Float[Tensor, "n n_code"]:
    """Swap the local parts of each pair.

    With shared weights the members of pairs then say what their partners said, mirrored. The whole head is mirrored
    as far as the anchors lie symmetrically and the members on the midline are symmetric: the global part stays.
    """
    layout = layout or CodeLayout()
    partner = torch.arange(N_MEMBERS, device=code.device)
    partner[: 2 * N_PAIRS] = partner[: 2 * N_PAIRS] ^ 1
    out = code.clone()
    layout.local(out)[:] = layout.local(code)[:, partner]
    return out


def transfer_expression(
    expression_code: Float[Tensor, "n n_expression"],
    *,
    source_neutral: Float[Tensor, "n n_expression"] | None = None,
    target_neutral: Float[Tensor, "n n_expression"] | None = None,
) -> Float[Tensor, "n n_expression"]:
    """Give the code that shows a source subject's expression on a target subject.

    Without neutrals it is the code itself: the expression field adds the target's identity. With both, only the
    source's way from its neutral is carried over, and what its neutral code says of the source stays behind.
    """
    if (source_neutral is None) != (target_neutral is None):
        raise ValueError("give the neutral codes of both subjects, or none")
    if source_neutral is None or target_neutral is None:
        return expression_code.clone()
    return target_neutral + expression_code - source_neutral
