"""The kernels of a training step against their slow twins, at small sizes; see `tests/models/test_fused.py`."""

import importlib.util
import inspect
import os

import numpy as np
import pytest
import torch

from nphm_core.config import ExpressionModelConfig, OptimiserConfig, TrainExpressionConfig
from nphm_core.models.expression_field import ExpressionField
from nphm_core.training import losses, optimisers, pairs
from nphm_core.training.draws import Draws, Part
from nphm_core.training.losses import expression_terms
from nphm_core.training.optimisers import Codebook
from nphm_core.training.pairs import PairBatch, PairSamples, RegisteredPair
from tests.training.conftest import make_sphere

_CAN_RUN = importlib.util.find_spec("triton") is not None and (
    torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
)
pytestmark = [
    pytest.mark.skipif(not _CAN_RUN, reason="needs Triton, and a GPU or TRITON_INTERPRET=1"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]
if _CAN_RUN:
    import triton

    _jit = triton.jit
    triton.jit = lambda function: _jit(inspect.unwrap(function))

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def both(monkeypatch, module, name, call):
    """Give what a call gives by plain operations, and by kernels."""
    found = []
    for kernels in (False, True):
        monkeypatch.setattr(module, name, lambda *_, kernels=kernels: kernels)
        found.append(call())
    return found


@pytest.mark.parametrize("n_pairs", [7, 130])
def test_pairs_are_those_of_plain_operations(monkeypatch, n_pairs):
    made = []
    for i, (n, radius) in enumerate([(1, 0.4), (2, 0.3), (1, 0.5)]):
        vertices, faces = make_sphere(n, radius)
        weight = np.clip(0.5 + 2 * vertices[:, 0], 0, 1)
        made.append(RegisteredPair(vertices, vertices * [1 + 0.1 * i, 0.8, 1], weight, faces))
    samples = PairSamples(["a", "b", "c"], np.array([2, 0, 1]), made, device=DEVICE)
    scans, part = torch.tensor([1, 2, 0], device=DEVICE), Part(1, 3, 3)
    draws = Draws(3, "test", DEVICE)
    plain, fast = both(
        monkeypatch, pairs, "has_kernels", lambda: samples.draw(scans, n_pairs, part, generator=draws.at(0))
    )
    for name in ("scan", "subject", "canonical", "posed", "weight"):
        torch.testing.assert_close(getattr(fast, name), getattr(plain, name), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_space", [0, 5])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_terms_and_slopes_are_those_of_plain_operations(monkeypatch, direction, n_space):
    torch.manual_seed(0)
    model = ExpressionModelConfig(direction=direction, n_expression=6, n_condition=4, n_hidden=24, n_layers=5)
    field = ExpressionField(model, 10).to(DEVICE)
    settings = TrainExpressionConfig(model=model, weight_codes=0.3, weight_zero=0.7)
    batch = PairBatch(*(torch.arange(3, device=DEVICE),) * 2, *torch.rand(2, 3, 20, 3), torch.rand(3, 20))
    batch = PairBatch(*(getattr(batch, name).to(DEVICE) for name in batch.__dataclass_fields__))
    batch.weight[1] = 0
    data = [torch.rand(shape, device=DEVICE) for shape in ((3, 10), (3, 39, 3), (3, 6), (3, n_space, 3), (3, 4))]
    # The network's own kernels are not what is compared.
    values = field.values(torch.cat([batch.canonical, data[3]], dim=1), data[4], data[2]).detach()

    def call():
        leaves = values.clone().requires_grad_(), data[2].clone().requires_grad_()
        monkeypatch.setattr(field, "values", lambda *_: leaves[0])
        terms = expression_terms(field, batch, data[0], data[1], leaves[1], data[3], data[4], settings)
        (terms.total + 0.5 * terms.pairs + 2 * terms.zero).backward()
        return [*terms.named().values(), *(leaf.grad for leaf in leaves)]

    plain, fast = both(monkeypatch, losses, "is_network_fused", call)
    for mine, wanted in zip(fast, plain, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-7)


def test_codes_are_cut_and_moved_as_by_plain_operations(monkeypatch):
    settings = OptimiserConfig(clip_norm=0.3, max_code_norm=1.0)
    generator = torch.Generator().manual_seed(0)
    start, rows = torch.randn(5, 6, generator=generator).to(DEVICE), torch.tensor([3, 0, 4], device=DEVICE)
    slopes = torch.randn(3, 3, 6, generator=generator).to(DEVICE)
    slopes[1, 2] = 0

    def call():
        codebook, found = Codebook(start, settings), []
        for slope in slopes.clone():
            found.append(codebook.lookup(rows).detach())
            codebook.update(rows, slope, 0.05)
            found.append(slope)
        return [*found, *codebook.state().values()]

    plain, fast = both(monkeypatch, optimisers, "has_kernels", call)
    for mine, wanted in zip(fast, plain, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip_norm", [1e-2, 1e3])
def test_weights_move_as_by_pytorch(monkeypatch, clip_norm):
    settings = OptimiserConfig(learning_rate=1e-2, weight_decay=0.1)
    # A block and a part of one; a part; a single number; one that never has a gradient.
    shapes = [(40, 30), (7,), (), (5,)]

    def moved():
        generator = torch.Generator().manual_seed(4)
        weights = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(DEVICE)) for shape in shapes]
        optimiser = optimisers.adamw(weights, settings)
        # On a GPU it is one already.
        optimiser.param_groups[0]["lr"] = torch.tensor(settings.learning_rate, device=DEVICE)
        for _ in range(4):
            for weight in weights[:-1]:
                weight.grad = torch.randn(weight.shape, generator=generator).to(DEVICE)
            optimisers.move_weights(optimiser, clip_norm)
        return [*weights, *(value for weight in weights[:-1] for value in optimiser.state[weight].values())]

    plain, fast = both(monkeypatch, optimisers, "has_kernels", moved)
    for mine, wanted in zip(fast, plain, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-7)
