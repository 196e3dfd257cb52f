"""Gaussian priors on codes, learnt from the codes of the training set.

A hundred codes of a thousand numbers each correlate by chance, everywhere, and such a covariance takes a face for a
proof of how the back of the head looks. So correlations fade with the distance of the anchors that two numbers belong
to (Gaspari and Cohn 1999, Quarterly Journal of the Royal Meteorological Society, "covariance localisation"), and what
remains is shrunk towards its diagonal (Ledoit and Wolf 2004). How far is chosen by the likelihood of codes left out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

_N_FOLDS = 5
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Shrinkage:
    """How far the covariance of examples is trusted."""

    reach: float | None = 0.1
    """Canonical units over which correlations between anchors fade to 0.6; None where all are believed."""
    share: float = 0.3
    """Of the diagonal in the covariance; between 0 and 1."""


CANDIDATES = tuple(
    Shrinkage(reach, share) for reach in (None, 0.2, 0.1, 0.05) for share in (0.03, 0.1, 0.3, 0.5, 0.7, 0.9)
)
"""What `choose_shrinkage` tries."""


class GaussianPrior(nn.Module):
    """A Gaussian over codes that few examples determine, with a covariance that is not singular."""

    mean: Tensor
    factor: Tensor
    """Lower triangular; times its own transpose it is the covariance."""
    basis: Tensor
    deviation: Tensor

    def __init__(
        self,
        mean: Float[Tensor, " n_code"],
        factor: Float[Tensor, "n_code n_code"],
        basis: Float[Tensor, "n_code n_components"],
        deviation: Float[Tensor, " n_components"],
    ) -> None:
        """Take the density, and orthonormal directions with deviations that the examples themselves vary along."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("factor", factor)
        self.register_buffer("basis", basis)
        self.register_buffer("deviation", deviation)
        self._known: dict[str, tuple[Tensor, int, Tensor]] = {}

    @classmethod
    def from_codes(
        cls,
        codes: Float[Tensor, "n n_code"],
        shrinkage: Shrinkage | None = None,
        distance: Float[Tensor, "n_code n_code"] | None = None,
    ) -> "GaussianPrior":
        """Estimate from codes; `distance` between the places that numbers belong to, in canonical units.

        With fewer than two codes, or codes that do not vary, it is the unit Gaussian around their mean, or around zero.
        """
        n_code = codes.shape[1]
        mean = codes.mean(dim=0) if len(codes) else codes.new_zeros(n_code)
        basis, deviation = _principal_axes(codes - mean)
        if not len(deviation):
            return cls(mean, torch.eye(n_code).to(codes), basis, deviation)
        covariance = shrunk_covariance(codes, shrinkage or Shrinkage(), distance)
        return cls(mean, torch.linalg.cholesky(covariance).to(codes), basis, deviation)

    @property
    def n_code(self) -> int:
        """Length of a code."""
        return len(self.mean)

    def precision(self) -> Float[Tensor, "n_code n_code"]:
        """Give the inverse of the covariance, in float64; not to be changed, for it is kept."""
        return self._kept("precision", lambda: torch.cholesky_inverse(self.factor.double()))

    def strongest(self, n: int) -> Float[Tensor, "n_code k"]:
        """Give the at most n directions of the largest variance, each as long as its standard deviation."""
        directions = self._kept("directions", self._directions)
        return directions[:, : min(n, self.n_code)]

    def _directions(self) -> Float[Tensor, "n_code n_code"]:
        wide = self.factor.double()
        variance, directions = torch.linalg.eigh(wide @ wide.T)
        return (directions * variance.clamp_min(0).sqrt()).flip(1).to(self.factor)

    def _kept(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Give what depends on the factor only, computed anew when that was changed or replaced.

        Every fit asks, and a decomposition takes a tenth of a second; changes through `factor.data` go unnoticed.
        """
        known = self._known.get(name)
        # Comparing objects: an address may be used again.
        if known is None or known[0] is not self.factor or known[1] != self.factor._version:
            known = self.factor, self.factor._version, compute()
            self._known[name] = known
        return known[2]

    def mahalanobis_sq(self, code: Float[Tensor, "n n_code"]) -> Float[Tensor, " n"]:
        """Give squared distances from the mean in standard deviations; differentiable."""
        return torch.linalg.solve_triangular(self.factor, (code - self.mean).T, upper=False).square().sum(dim=0)

    def sample(self, n: int, *, generator: torch.Generator, temperature: float = 1.0) -> Float[Tensor, "n n_code"]:
        """Draw codes in the span of the examples; the temperature multiplies their deviations.

        Unlike the density, which doubts correlations, draws keep them: parts that never met fit together badly.
        """
        noise = torch.randn(n, len(self.deviation), generator=generator, device=self.mean.device)
        return self.mean + temperature * (noise * self.deviation) @ self.basis.T


def shrunk_covariance(
    codes: Float[Tensor, "n n_code"],
    shrinkage: Shrinkage,
    distance: Float[Tensor, "n_code n_code"] | None = None,
) -> Float[Tensor, "n_code n_code"]:
    """Give the covariance of at least two codes, localised and shrunk, in float64; it is not singular."""
    centred = (codes - codes.mean(dim=0)).double()
    covariance = centred.T @ centred / (len(codes) - 1)
    # A number that never varied is not known for certain: it is as free as the others are at least.
    variance = covariance.diagonal()
    variance = variance.clamp_min(max(1e-4 * float(variance.mean()), _SMALLEST))
    if shrinkage.reach is not None and distance is not None:
        covariance = covariance * torch.exp(-0.5 * (distance.double() / shrinkage.reach).square())
    covariance = (1 - shrinkage.share) * covariance
    covariance.diagonal().copy_(variance)
    return _definite(covariance)


def choose_shrinkage(
    codes: Float[Tensor, "n n_code"], distance: Float[Tensor, "n_code n_code"] | None = None
) -> Shrinkage:
    """Choose by the likelihood of codes left out, a fifth of them at a time; the default with fewer than ten codes."""
    if len(codes) < 2 * _N_FOLDS:
        return Shrinkage()
    candidates = [c for c in CANDIDATES if c.reach is None or distance is not None]
    likelihood = [_likelihood(codes, candidate, distance) for candidate in candidates]
    return candidates[max(range(len(candidates)), key=likelihood.__getitem__)]


def _likelihood(codes: Tensor, shrinkage: Shrinkage, distance: Tensor | None) -> float:
    total, fold = 0.0, torch.arange(len(codes), device=codes.device) % _N_FOLDS
    for k in range(_N_FOLDS):
        known, left_out = codes[fold != k], codes[fold == k]
        factor = torch.linalg.cholesky(shrunk_covariance(known, shrinkage, distance))
        offset = (left_out - known.mean(dim=0)).double()
        away = torch.linalg.solve_triangular(factor, offset.T, upper=False).square().sum()
        total -= 0.5 * float(away) + len(left_out) * float(factor.diagonal().log().sum())
    return total


def _definite(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Add to the diagonal what a Cholesky factor needs; fading by distances across a mirror leaves tiny negatives."""
    extra, scale = 0.0, float(matrix.diagonal().mean())
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    for _ in range(20):
        candidate = matrix + extra * scale * eye
        if int(torch.linalg.cholesky_ex(candidate).info) == 0:
            return candidate
        extra = max(10 * extra, 1e-8)
    raise ValueError("the codes are not finite or differ by too many orders of magnitude")


def _principal_axes(centred: Float[Tensor, "n n_code"]) -> tuple[Float[Tensor, "n_code k"], Float[Tensor, " k"]]:
    """Give the directions in which codes vary, the strongest first, and their standard deviations."""
    nothing = centred.new_zeros(centred.shape[1], 0), centred.new_zeros(0)
    if len(centred) < 2:
        return nothing
    _, singular, directions = torch.linalg.svd(centred.double(), full_matrices=False)
    deviation = singular / (len(centred) - 1) ** 0.5
    kept = deviation > max(1e-3 * float(deviation.max()), _SMALLEST)
    if not kept.any():
        return nothing
    # The sign of a direction means nothing; fixed, the same codes give the same bytes.
    basis = directions[kept].T
    basis = basis * torch.sign(basis.gather(0, basis.abs().argmax(0, keepdim=True)))
    return basis.to(centred), deviation[kept].to(centred)
