"""The stacked networks: the batched form against the plain one, derivatives included."""

import torch

from nphm_core.models.blend import _filled_blocks
from nphm_core.models.networks import BLOCK_ROWS, RowGroups, StackedNetworks, softplus_and_slope


def _networks() -> StackedNetworks:
    torch.manual_seed(0)
    return StackedNetworks(3, 3, 4, 1, 16, 5).double()


def _evaluate(networks, points, codes, groups, used):
    folded = networks.fold(codes, torch.tensor([0, 1, 2]))
    values, jacobian = networks.values_and_jacobian(points, folded, groups)
    loss = values[used].square().sum() + jacobian[used].square().sum()
    gradients = torch.autograd.grad(loss, [*networks.parameters(), codes])
    return values[used], jacobian[used], gradients


def test_blocks_give_what_one_product_a_network_gives():
    networks = _networks()
    generator = torch.Generator().manual_seed(1)
    counts = torch.tensor([700, 0, 30])
    points = torch.randn(730, 3, generator=generator, dtype=torch.double)
    codes = torch.randn(2, 3, 4, generator=generator, dtype=torch.double).requires_grad_()
    member = torch.repeat_interleave(torch.arange(3), counts)
    head = torch.randint(0, 2, (730,), generator=generator)
    plain = _evaluate(networks, points, codes, RowGroups((0, 700, 700, 730), head * 3 + member), torch.arange(730))
    source, is_filler, blocks = _filled_blocks(counts)
    assert len(source) == 3 * BLOCK_ROWS
    assert blocks.tolist() == [0, 0, 2]
    assert (source[~is_filler] == torch.arange(730)).all()
    batched = _evaluate(networks, points[source], codes, RowGroups((), (head * 3 + member)[source], blocks), ~is_filler)
    for one, other in zip(plain[:2], batched[:2], strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(plain[2], batched[2], strict=True):
        torch.testing.assert_close(one, other)


def test_softplus_and_its_slope_have_the_derivatives_of_autograd():
    pre = torch.linspace(-0.3, 0.3, 41, dtype=torch.double)[:, None].requires_grad_()
    assert torch.autograd.gradcheck(softplus_and_slope, (pre,))
    activation, slope = softplus_and_slope(pre)
    torch.testing.assert_close(activation, torch.nn.functional.softplus(pre, beta=100))
    (wanted,) = torch.autograd.grad(activation.sum(), pre)
    torch.testing.assert_close(slope, wanted)
