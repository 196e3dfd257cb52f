"""Gaussian priors on codes, learnt from the codes of the training set."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class GaussianPrior(nn.Module):
    """A Gaussian over codes that few examples determine.

    The covariance is that of the examples in the space that they span, and the mean of their smallest variances
    outside of it: with fewer examples than dimensions the rest is neither free nor forbidden.
    """

    mean: Tensor
    basis: Tensor
    deviation: Tensor
    floor: Tensor

    def __init__(
        self,
        mean: Float[Tensor, " n_code"],
        basis: Float[Tensor, "n_code n_components"],
        deviation: Float[Tensor, " n_components"],
        floor: Float[Tensor, ""],
    ) -> None:
        """Take orthonormal directions with standard deviations; `floor` is that of all other directions."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("basis", basis)
        self.register_buffer("deviation", deviation)
        self.register_buffer("floor", floor)

    @classmethod
    def from_codes(cls, codes: Float[Tensor, "n n_code"], *, min_share: float = 0.05) -> "GaussianPrior":
        """Estimate from codes; directions with less than `min_share` of the largest deviation count as the rest.

        With fewer than two codes it is the unit Gaussian around their mean, or around zero.
        """
        n_code = codes.shape[1]
        mean = codes.mean(dim=0) if len(codes) else codes.new_zeros(n_code)
        if len(codes) < 2:
            return cls(mean, codes.new_zeros(n_code, 0), codes.new_zeros(0), codes.new_ones(()))
        centred = (codes - mean).double()
        _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
        deviation = singular / (len(codes) - 1) ** 0.5
        kept = deviation > max(min_share * float(deviation.max()), 1e-12)
        if not kept.any():
            return cls(mean, codes.new_zeros(n_code, 0), codes.new_zeros(0), codes.new_ones(()))
        # The sign of a direction means nothing; fixed, the same codes give the same bytes.
        basis = directions[kept].T
        basis = basis * torch.sign(basis.gather(0, basis.abs().argmax(0, keepdim=True)))
        return cls(mean, basis.to(codes), deviation[kept].to(codes), deviation[kept].min().to(codes))

    @property
    def n_code(self) -> int:
        """Length of a code."""
        return len(self.mean)

    def mahalanobis_sq(self, code: Float[Tensor, "n n_code"]) -> Float[Tensor, " n"]:
        """Give squared distances from the mean in standard deviations; differentiable."""
        offset = code - self.mean
        along = offset @ self.basis
        rest = (offset.square().sum(dim=1) - along.square().sum(dim=1)).clamp_min(0)
        return (along / self.deviation).square().sum(dim=1) + rest / self.floor.square()

    def sample(self, n: int, *, generator: torch.Generator, temperature: float = 1.0) -> Float[Tensor, "n n_code"]:
        """Draw codes in the span of the examples; the temperature multiplies their deviations."""
        noise = torch.randn(n, len(self.deviation), generator=generator, device=self.mean.device)
        return self.mean + temperature * (noise * self.deviation) @ self.basis.T
