"""Small fields and the released model's outputs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nphm_core.config import ExpressionModelConfig, IdentityModelConfig
from nphm_core.models.neural_head import NeuralHead, build_head
from nphm_core.models.released import read_released
from nphm_core.template.anchors import mean_anchors


@pytest.fixture(scope="session")
def anchors() -> torch.Tensor:
    """NPHM's mean anchors, canonical units."""
    return torch.from_numpy(mean_anchors()).float()


@pytest.fixture
def small_identity() -> IdentityModelConfig:
    """A small ensemble that evaluates all members."""
    return IdentityModelConfig(n_global=8, n_local=4, n_hidden=32, n_hidden_anchors=16, min_weight=0)


@pytest.fixture
def small_expression() -> ExpressionModelConfig:
    """A small forward expression field."""
    return ExpressionModelConfig(n_expression=10, n_condition=6, n_hidden=40, n_layers=5)


@pytest.fixture
def small_head(small_identity, small_expression, anchors) -> NeuralHead:
    """A head model with random weights."""
    return build_head(small_identity, small_expression, anchors, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def parity(shared_dir) -> dict[str, torch.Tensor]:
    """What the released implementation computes with random weights."""
    with np.load(shared_dir / "parity" / "golden.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files if stored[key].dtype.kind in "fib"}


@pytest.fixture
def released_files(shared_dir) -> tuple[Path, Path, Path]:
    """Identity and expression checkpoint in the released layout, and the mean anchors."""
    folder = shared_dir / "parity"
    return (
        folder / "identity_checkpoint_epoch_0.tar",
        folder / "expression_checkpoint_epoch_0.tar",
        folder / "mean_anchors.npy",
    )


@pytest.fixture
def released_head(released_files) -> NeuralHead:
    """The model of these checkpoints."""
    identity, expression, means = released_files
    return read_released(identity, expression, torch.from_numpy(np.load(means)).float())
