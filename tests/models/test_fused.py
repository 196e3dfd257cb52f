"""The fused kernels against the plain operations in float64, at small sizes.

They run on a GPU, or interpreted on a CPU: `pip install triton==3.6.0`, which PyTorch's CPU build does not bring, and
`TRITON_INTERPRET=1 pytest tests/models/test_fused.py`.
"""

import copy
import dataclasses
import importlib.util
import inspect
import os

import pytest
import torch

from nphm_core.config import ExpressionModelConfig, IdentityModelConfig
from nphm_core.models import dispatch
from nphm_core.models.dispatch import is_fused, is_network_fused, plain_operations
from nphm_core.models.expression_field import ExpressionField
from nphm_core.models.identity_field import EnsembleField

_CAN_RUN = importlib.util.find_spec("triton") is not None and (
    torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
)
needs_triton = pytest.mark.skipif(not _CAN_RUN, reason="needs Triton, and a GPU or TRITON_INTERPRET=1")
# The slope of softplus is computed in the columns of places as well, where it means nothing and is not used.
pytestmark = [
    pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning"),
    # Of Triton's interpreter.
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]
if _CAN_RUN:
    import triton

    # As Numba (`tests/conftest.py`), Triton must see functions as written, not what the type checks wrap them in.
    _jit = triton.jit
    triton.jit = lambda function: _jit(inspect.unwrap(function))

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Interpreted, a tile takes a tenth of a second, and every head has forty tiles at least.
N_HEADS, N_POINTS = (2, 256) if torch.cuda.is_available() else (1, 12)


def _relative(found, exact):
    found, exact = found.detach(), exact.detach()
    return float((found.double() - exact).norm() / exact.norm())


@pytest.fixture
def ensembles():
    torch.manual_seed(0)
    settings = IdentityModelConfig(n_global=4, n_local=4, n_hidden=24, n_hidden_anchors=8, kernel="fused")
    fused = EnsembleField(settings, 0.3 * torch.randn(39, 3)).to(DEVICE)
    exact = copy.deepcopy(fused).double()
    exact.settings = settings.model_copy(update={"kernel": "plain"})
    return fused, exact


def _evaluated(field, dtype):
    """Give values, gradients, and what a loss on both says of points, code and weights."""
    generator = torch.Generator().manual_seed(1)
    points = 0.4 * torch.randn(N_HEADS, N_POINTS, 3, generator=generator)
    code = 0.3 * torch.randn(N_HEADS, field.n_code, generator=generator)
    leaves = [tensor.to(DEVICE, dtype).requires_grad_() for tensor in (points, code)]
    sdf, gradient = field.sdf_and_gradient(*leaves)
    loss = sdf.abs().mean() + (gradient.norm(dim=2) - 1).abs().mean() + gradient[..., 0].mean()
    loss.backward()
    return sdf, gradient, [leaf.grad for leaf in leaves], {name: p.grad for name, p in field.named_parameters()}


@pytest.mark.slow
@needs_triton
def test_values_gradients_and_slopes_are_those_of_float64(ensembles):
    fused, exact = ensembles
    sdf, gradient, by_leaf, by_weight = _evaluated(fused, torch.float32)
    sdf_64, gradient_64, by_leaf_64, by_weight_64 = _evaluated(exact, torch.float64)
    assert _relative(sdf, sdf_64) < 1e-3
    assert _relative(gradient, gradient_64) < 1e-3
    for found, wanted in zip(by_leaf, by_leaf_64, strict=True):
        assert _relative(found, wanted) < 5e-3
    for name, wanted in by_weight_64.items():
        assert _relative(by_weight[name], wanted) < 5e-3, name


@pytest.mark.slow
@needs_triton
def test_values_alone_are_those_beside_gradients(ensembles):
    fused, _ = ensembles
    points, code = torch.zeros(1, N_POINTS, 3, device=DEVICE), torch.zeros(1, fused.n_code, device=DEVICE)
    points = points + torch.linspace(-0.4, 0.4, N_POINTS, device=DEVICE)[:, None]
    with torch.no_grad():
        alone = fused.sdf(points, code)
    torch.testing.assert_close(alone, fused.sdf_and_gradient(points, code)[0].detach(), rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: interpreted, one order of sums is all there is")
def test_the_same_call_gives_the_same_bits(ensembles):
    fused, _ = ensembles
    first = _evaluated(fused, torch.float32)
    fused.zero_grad()
    second = _evaluated(fused, torch.float32)
    assert torch.equal(first[1], second[1])
    assert all(torch.equal(first[3][name], second[3][name]) for name in first[3])


@pytest.mark.slow
@needs_triton
def test_room_that_suffices_changes_nothing_and_too_little_shows(ensembles):
    fused, _ = ensembles
    points, code = 0.3 * torch.ones(1, N_POINTS, 3, device=DEVICE), torch.zeros(1, fused.n_code, device=DEVICE)
    asked = fused.sdf_and_gradient(points, code)[1].detach()
    fused.room.reserve()
    assert torch.equal(fused.sdf_and_gradient(points, code)[1].detach(), asked)
    fused.room.max_tiles = 1
    fused.sdf_and_gradient(points, code)
    assert int(fused.room.most) > fused.room.max_tiles


@needs_triton
@pytest.mark.parametrize("is_cut", [False, True])
def test_slopes_of_a_deformation_are_those_of_float64(is_cut, monkeypatch):
    if is_cut:
        from nphm_core.models.fused.network import Tuning

        usual, tuning = dispatch._network_shape, Tuning(rows=16, columns=16, depth=16, pass_columns=16)
        monkeypatch.setattr(dispatch, "_network_shape", lambda *a: dataclasses.replace(usual(*a), tuning=tuning))
    torch.manual_seed(0)
    settings = ExpressionModelConfig(n_expression=6, n_condition=4, n_hidden=32, n_layers=5, kernel="fused")
    fused = ExpressionField(settings, 20).to(DEVICE)
    exact = copy.deepcopy(fused).double()
    exact.settings = settings.model_copy(update={"kernel": "plain"})
    # Tiles of 16 rows lie within a head, and across the heads' border.
    points = 0.5 * torch.randn(2, 2 * N_POINTS, 3)
    codes = [torch.randn(2, n) for n in (4, 6)]
    found = []
    for field, dtype in ((fused, torch.float32), (exact, torch.float64)):
        leaves = [code.detach().to(DEVICE, dtype).requires_grad_() for code in codes]
        assert is_network_fused(field, points.to(DEVICE)) == (field is fused)
        offset = field.deformation(points.to(DEVICE, dtype), *leaves)
        offset.square().sum().backward()
        found.append([offset, *(leaf.grad for leaf in leaves), *(p.grad for p in field.networks.parameters())])
    for mine, wanted in zip(*found, strict=True):
        assert _relative(mine, wanted) < 5e-3


def test_on_a_cpu_kernels_have_to_be_asked_for(ensembles):
    fused, _ = ensembles
    points = torch.zeros(1, 10_000, 3)
    for kernel in ("auto", "plain"):
        fused.settings = fused.settings.model_copy(update={"kernel": kernel})
        with torch.no_grad():
            assert not is_fused(fused, points)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_kernels_serve_one_head_always_and_many_heads_where_each_has_points_enough(ensembles):
    fused, _ = ensembles
    fused.settings = fused.settings.model_copy(update={"kernel": "auto"})
    served = {(1, 10_000): True, (1, 1): True, (32, 1_693): True, (16_384, 1): False}
    for shape, expected in served.items():
        assert is_fused(fused, torch.zeros(*shape, 3, device="cuda")) == expected
    assert not is_fused(fused, torch.zeros(1, 10_000, 3, device="cuda", dtype=torch.float64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_card_before_the_h100_has_to_be_asked_to_train_the_deformation_by_kernels(monkeypatch):
    monkeypatch.setattr(dispatch, "_copies_tiles", lambda device: False)
    settings = ExpressionModelConfig(n_expression=6, n_condition=4, n_hidden=32, n_layers=5)
    points = torch.zeros(2, 10_000, 3, device="cuda")
    for kernel, expected in (("auto", False), ("fused", True)):
        field = ExpressionField(settings.model_copy(update={"kernel": kernel}), 20).to("cuda")
        assert is_network_fused(field, points) == expected


@needs_triton
def test_plain_operations_may_be_asked_for_whatever_the_settings_say(ensembles):
    fused, _ = ensembles
    points = torch.zeros(1, 10_000, 3, device=DEVICE)
    assert is_fused(fused, points)
    with plain_operations():
        assert not is_fused(fused, points)
    assert is_fused(fused, points)


@needs_triton
def test_values_follow_weights_and_codes_that_were_written_to(ensembles):
    fused, exact = ensembles
    points, code = torch.full((1, 4, 3), 0.1, device=DEVICE), torch.zeros(1, fused.n_code, device=DEVICE)
    with torch.no_grad():
        first = fused.sdf(points, code)
        assert torch.equal(first, fused.sdf(points, code))
        for field in (fused, exact):
            field.networks.biases[3].add_(0.1)
        second = fused.sdf(points, code)
        assert not torch.equal(first, second)
        assert _relative(second, exact.sdf(points.double(), code.double())) < 1e-3
        code.add_(0.2)
        third = fused.sdf(points, code)
        assert _relative(third, exact.sdf(points.double(), code.double())) < 1e-3
        fused.anchor_network[-1].bias.add_(0.05)
        assert not torch.equal(third, fused.sdf(points, code))
