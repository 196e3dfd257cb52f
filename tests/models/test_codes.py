"""Codes are drawn, mixed and swapped part by part, and their arguments stay as they were."""

import pytest
import torch

from nphm_core.config import IdentityModelConfig
from nphm_core.models.codes import (
    GROUPS,
    CodeLayout,
    interpolate_codes,
    mirrored_code,
    sample_codes,
    swap_regions,
    transfer_expression,
)
from nphm_core.models.identity_field import build_identity_field
from nphm_core.models.priors import GaussianPrior
from nphm_core.template.anchors import mean_anchors

LAYOUT = CodeLayout()


@pytest.fixture
def codes():
    return torch.randn(2, 3, LAYOUT.n_code, generator=torch.Generator().manual_seed(1))


def test_the_default_layout_is_that_of_the_paper():
    assert CodeLayout.of(IdentityModelConfig()) == LAYOUT
    assert LAYOUT.n_code == 1344
    with pytest.raises(ValueError, match="no parts"):
        CodeLayout.of(IdentityModelConfig(kind="global"))


def test_the_regions_divide_all_members_and_keep_pairs_together():
    assert sorted(member for group in GROUPS.values() for member in group) == list(range(40))
    for group in GROUPS.values():
        assert {member ^ 1 for member in group if member < 32} <= set(group)


def test_a_swap_takes_the_regions_and_nothing_else(codes):
    code, source = codes
    before = codes.clone()
    swapped = swap_regions(code, source, ("mouth", "nose"))
    members = set(GROUPS["mouth"]) | set(GROUPS["nose"])
    for member in range(40):
        want = source if member in members else code
        torch.testing.assert_close(LAYOUT.local(swapped)[:, member], LAYOUT.local(want)[:, member], atol=0, rtol=0)
    assert torch.equal(swapped[:, :64], code[:, :64])
    assert torch.equal(codes, before)
    assert torch.equal(swap_regions(code, source, (*GROUPS, "global")), source)


def test_an_unknown_region_is_named(codes):
    with pytest.raises(ValueError, match=r"lips are unknown; known are mouth, nose"):
        swap_regions(codes[0], codes[1], ("lips",))
    with pytest.raises(ValueError, match="expected 1344"):
        swap_regions(codes[0][:, :-1], codes[1][:, :-1], ("mouth",))


def test_mirroring_twice_changes_nothing_and_once_exchanges_the_sides(codes):
    once = mirrored_code(codes[0])
    assert torch.equal(LAYOUT.local(once)[:, 20], LAYOUT.local(codes[0])[:, 21])
    assert torch.equal(LAYOUT.local(once)[:, 32:], LAYOUT.local(codes[0])[:, 32:])
    assert torch.equal(mirrored_code(once), codes[0])


def test_a_mirrored_code_gives_the_mirrored_head_near_a_pair():
    torch.manual_seed(3)
    settings = IdentityModelConfig(n_global=4, n_local=3, n_hidden=16, n_hidden_anchors=8)
    anchors = torch.as_tensor(mean_anchors()).float()
    field = build_identity_field(settings, anchors)
    with torch.no_grad():
        field.anchor_network[-1].weight.zero_()
        field.anchor_network[-1].bias.zero_()
    code = torch.randn(1, field.n_code)
    layout = CodeLayout.of(settings)
    # Ears: far from the midline, whose members need not be symmetric.
    points = anchors[20] + torch.tensor([-0.06, 0.0, 0.0]) + 0.01 * torch.randn(1, 50, 3)
    mirrored = field.sdf(points * torch.tensor([-1.0, 1, 1]), mirrored_code(code, layout))
    torch.testing.assert_close(mirrored, field.sdf(points, code), atol=1e-4, rtol=0)


def test_interpolation_meets_both_ends_exactly(codes):
    first, last = codes[0, 0], codes[1, 0]
    line = interpolate_codes(first, last, 5)
    assert torch.equal(line[0], first)
    assert torch.equal(line[-1], last)
    torch.testing.assert_close(line[2], 0.5 * (first + last))
    with pytest.raises(ValueError, match="at least 2"):
        interpolate_codes(first, last, 1)


def test_samples_spread_with_the_temperature():
    prior = GaussianPrior.from_codes(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)))
    cold, warm = (
        sample_codes(prior, 2000, generator=torch.Generator().manual_seed(2), temperature=t) for t in (0.5, 1.0)
    )
    torch.testing.assert_close(cold - prior.mean, 0.5 * (warm - prior.mean))
    assert float(prior.mahalanobis_sq(warm).mean()) == pytest.approx(6, rel=0.1)
    frozen = sample_codes(prior, 2, generator=torch.Generator().manual_seed(2), temperature=0.0)
    assert torch.equal(frozen, prior.mean.expand(2, -1))
    with pytest.raises(ValueError, match="temperature"):
        sample_codes(prior, 1, generator=torch.Generator(), temperature=-1.0)


def test_an_expression_is_carried_as_it_is_or_relative_to_the_neutrals():
    smile, neutral, other = torch.eye(3)[:, None].unbind()
    assert torch.equal(transfer_expression(smile), smile)
    relative = transfer_expression(smile, source_neutral=neutral, target_neutral=other)
    assert torch.equal(relative, torch.tensor([[1.0, -1.0, 1.0]]))
    with pytest.raises(ValueError, match="both subjects"):
        transfer_expression(smile, source_neutral=neutral)
