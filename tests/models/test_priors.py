import pytest
import torch

from nphm_core.config import IdentityModelConfig
from nphm_core.models.identity_field import build_identity_field
from nphm_core.models.priors import GaussianPrior, Shrinkage, choose_shrinkage, shrunk_covariance

FAR = torch.tensor([[0.0, torch.inf], [torch.inf, 0.0]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
"""Two places with four numbers each."""


def drawn(n: int, n_code: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, n_code, generator=torch.Generator().manual_seed(seed))


def test_a_prior_finds_mean_and_deviations_of_its_codes():
    generator = torch.Generator().manual_seed(0)
    deviation = torch.tensor([2.0, 1.0, 0.5])
    codes = 3 + torch.randn(4000, 3, generator=generator) * deviation
    prior = GaussianPrior.from_codes(codes)
    torch.testing.assert_close(prior.mean, torch.full((3,), 3.0), atol=0.1, rtol=0)
    torch.testing.assert_close(prior.deviation, deviation, atol=0.05, rtol=0.05)


def test_few_codes_leave_other_directions_neither_free_nor_forbidden():
    codes = torch.zeros(3, 10)
    codes[:, 0] = torch.tensor([-1.0, 0.0, 1.0])
    prior = GaussianPrior.from_codes(codes)
    outside = torch.zeros(1, 10)
    outside[0, 5] = 1.0
    assert 0 < float(prior.mahalanobis_sq(outside)) < float("inf")
    drawn = prior.sample(50, generator=torch.Generator().manual_seed(1))
    assert (drawn[:, 1:] == 0).all()


def test_a_prior_of_one_code_or_none_is_the_unit_gaussian():
    for n in (0, 1):
        prior = GaussianPrior.from_codes(torch.ones(n, 4))
        assert float(prior.mahalanobis_sq(prior.mean[None] + 1)) == pytest.approx(4.0)


def test_distances_are_those_of_the_shrunk_covariance_inverted():
    codes, shrinkage = drawn(20, 8), Shrinkage(0.1, 0.3)
    prior = GaussianPrior.from_codes(codes, shrinkage, FAR)
    inverse = torch.linalg.inv(shrunk_covariance(codes, shrinkage, FAR))
    offset = (codes - codes.mean(dim=0)).double()
    expected = torch.einsum("ni,ij,nj->n", offset, inverse, offset)
    torch.testing.assert_close(prior.mahalanobis_sq(codes).double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prior.precision(), inverse, rtol=1e-4, atol=1e-4)


def test_variances_stay_whatever_the_shrinkage():
    codes = drawn(30, 8)
    for shrinkage in (Shrinkage(None, 0.0), Shrinkage(0.1, 0.3), Shrinkage(0.05, 1.0)):
        found = shrunk_covariance(codes, shrinkage, FAR).diagonal()
        torch.testing.assert_close(found.float(), codes.var(dim=0), rtol=1e-4, atol=0)


def test_what_is_seen_of_one_place_says_nothing_of_a_far_one():
    codes = drawn(6, 8)  # so few that every place follows from every other
    precision = GaussianPrior.from_codes(codes, Shrinkage(0.1, 0.1), FAR).precision()
    assert precision[:4, 4:].abs().max() < 1e-9 * precision.abs().max()
    believed = GaussianPrior.from_codes(codes, Shrinkage(None, 0.1), FAR).precision()
    assert believed[:4, 4:].abs().max() > 0.1 * believed.abs().max()


def test_the_strongest_directions_are_the_covariance_s_own():
    prior = GaussianPrior.from_codes(drawn(50, 6) * torch.arange(1, 7), Shrinkage(None, 0.2))
    found = prior.strongest(10)
    torch.testing.assert_close(found @ found.T, prior.factor @ prior.factor.T, rtol=1e-4, atol=1e-4)
    assert (found.norm(dim=0).diff() <= 1e-6).all()
    assert prior.strongest(2).shape == (6, 2)


def test_what_is_kept_of_a_covariance_follows_its_changes():
    prior = GaussianPrior.from_codes(drawn(40, 6))
    first, precision = prior.strongest(2), prior.precision()
    assert prior.precision() is precision
    with torch.no_grad():
        prior.factor.mul_(2)
    torch.testing.assert_close(prior.strongest(2), 2 * first)
    torch.testing.assert_close(prior.precision(), precision / 4)
    prior.factor = prior.factor / 2
    torch.testing.assert_close(prior.precision(), precision)
    assert set(prior.state_dict()) == {"mean", "factor", "basis", "deviation"}


def test_chance_correlations_are_faded_and_real_ones_kept():
    independent = drawn(40, 8)
    assert choose_shrinkage(independent, FAR).reach is not None or choose_shrinkage(independent, FAR).share >= 0.9
    shared = drawn(40, 1, seed=1) * torch.ones(8) + 0.1 * independent
    chosen = choose_shrinkage(shared, FAR)
    assert chosen.reach is None
    assert chosen.share <= 0.1


def test_few_codes_get_the_default_shrinkage():
    assert choose_shrinkage(drawn(9, 8), FAR) == Shrinkage()


def test_numbers_of_a_pair_are_at_one_place_and_the_global_code_is_at_none():
    anchors = torch.zeros(39, 3)
    anchors[:32, 0] = torch.tensor([-1.0, 1.0]).repeat(16)
    anchors[:32, 1] = torch.arange(16).repeat_interleave(2).float()
    anchors[32:, 2] = 10 + torch.arange(7).float()
    settings = IdentityModelConfig(n_global=2, n_local=3)
    distance = build_identity_field(settings, anchors).code_distance()
    assert distance.shape == (2 + 40 * 3,) * 2
    assert (distance[2:8, 2:8] == 0).all()  # members 0 and 1
    assert float(distance[2, 8]) == pytest.approx(1.0)  # members 0 and 2, on one side
    assert (distance[:2, 2:] == torch.inf).all()
    assert (distance[-3:, :-3] == torch.inf).all()
    assert (distance[:2, :2] == 0).all()
