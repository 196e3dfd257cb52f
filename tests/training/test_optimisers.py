"""Optimisers: row-wise Adam is PyTorch's SparseAdam, clipping and decay are as they say."""

import pytest
import torch

from nphm_core.config import OptimiserConfig
from nphm_core.training.optimisers import Codebook, adamw, clip_, rate_at

SETTINGS = OptimiserConfig(code_learning_rate=0.05, clip_norm=0.3, max_code_norm=1.0)


def test_the_codebook_moves_as_sparse_adam_on_an_embedding_does():
    """The slow twin: an embedding with sparse gradients and a largest norm, clipped and optimised by PyTorch."""
    start = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    target = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    codebook = Codebook(start, SETTINGS)
    embedding = torch.nn.Embedding(6, 8, max_norm=SETTINGS.max_code_norm, sparse=True, _weight=start.clone())
    sparse = torch.optim.SparseAdam(embedding.parameters(), lr=SETTINGS.code_learning_rate)
    for step in range(30):
        rows = torch.randperm(6, generator=torch.Generator().manual_seed(step))[: 2 + step % 3]
        codes = codebook.lookup(rows)
        (codes - target[rows]).square().sum().backward()
        codebook.update(rows, codes.grad, SETTINGS.code_learning_rate)
        sparse.zero_grad()
        (embedding(rows) - target[rows]).square().sum().backward()
        gradient = embedding.weight.grad.coalesce()
        clip_(gradient.values(), SETTINGS.clip_norm)
        embedding.weight.grad = gradient
        sparse.step()
        assert torch.allclose(codebook.codes, embedding.weight.detach(), atol=2e-6)


def test_rows_outside_the_batch_do_not_change():
    codebook = Codebook(torch.ones(4, 3) * 0.1, SETTINGS)
    for step in range(3):
        rows = torch.tensor([1, 3]) if step else torch.tensor([0, 1])
        codebook.update(rows, torch.ones(2, 3), 0.1)
    untouched = codebook.state()
    assert torch.equal(codebook.codes[2], torch.full((3,), 0.1))
    assert not untouched["first"][2].any()


def test_rows_without_gradient_stay_with_their_moments():
    codebook = Codebook(torch.ones(3, 2), SETTINGS)
    gradient = torch.tensor([[0.1, 0.2], [0.1, -0.1], [0.2, 0.1]])
    codebook.update(torch.arange(3), gradient.clone(), 0.1)
    before = {name: value.clone() for name, value in codebook.state().items()}
    gradient[1] = 0
    codebook.update(torch.arange(3), gradient, 0.1)
    for name in ("codes", "first", "second"):
        assert torch.equal(codebook.state()[name][1], before[name][1])
        assert not torch.equal(codebook.state()[name][0], before[name][0])


def test_long_codes_are_cut_when_they_are_used():
    codebook = Codebook(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), SETTINGS)
    codes = codebook.lookup(torch.tensor([0, 1]))
    assert torch.allclose(codes.detach(), torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
    assert torch.equal(codebook.codes, codes.detach())


def test_a_loaded_codebook_goes_on_as_the_first():
    rows, gradient = torch.tensor([0, 2]), torch.tensor([[0.1, -0.2], [0.3, 0.1]])
    one = Codebook.random(3, 2, 0.1, SETTINGS, generator=torch.Generator().manual_seed(0))
    one.update(rows, gradient.clone(), 0.1)
    other = Codebook(torch.zeros(3, 2), SETTINGS)
    other.load({name: value.clone() for name, value in one.state().items()})
    for codebook in (one, other):
        codebook.update(rows, gradient.clone(), 0.1)
    assert torch.equal(one.codes, other.codes)


def test_random_codes_have_the_length_asked_for():
    codebook = Codebook.random(50, 1344, 0.1, SETTINGS, generator=torch.Generator().manual_seed(0))
    assert codebook.codes.norm(dim=1).mean().item() == pytest.approx(0.1, rel=0.01)


def test_clipping_shortens_long_gradients_only():
    long, short = torch.tensor([3.0, 4.0]), torch.tensor([0.03, 0.04])
    clip_(long, 1.0)
    clip_(short, 1.0)
    assert torch.allclose(long, torch.tensor([0.6, 0.8]))
    assert torch.equal(short, torch.tensor([0.03, 0.04]))


def test_rates_fall_at_the_steps_named():
    settings = OptimiserConfig(decay_every=10, decay_factor=0.5)
    assert [rate_at(8.0, step, settings) for step in (0, 9, 10, 25, 30)] == [8, 8, 4, 2, 1]


def test_weights_without_gradient_are_not_optimised():
    layer = torch.nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    optimiser = adamw(layer.parameters(), OptimiserConfig())
    assert [tuple(p.shape) for p in optimiser.param_groups[0]["params"]] == [(2, 2)]
