"""Checkpoints: what is written is read back, what is wrong is refused."""

import json

import numpy as np
import pytest
import torch

from nphm_core.errors import CheckpointError
from nphm_core.io.files import read_safetensors, write_safetensors
from nphm_core.models.checkpoint import CONFIG, WEIGHTS, from_pretrained, write_checkpoint
from nphm_core.models.neural_head import NeuralHead


@pytest.fixture
def trained(small_head) -> NeuralHead:
    generator = torch.Generator().manual_seed(0)
    return NeuralHead(
        small_head.identity,
        small_head.expression,
        identity_codes=torch.randn(4, small_head.identity.n_code, generator=generator),
        expression_codes=torch.randn(6, small_head.expression.n_code, generator=generator),
        subjects=("a", "b", "c", "d"),
        scans=tuple(f"a/{k}" for k in range(6)),
        template_hash="f" * 64,
        facts={"seed": 3},
    )


def test_a_model_is_read_back_to_the_bit(trained, tmp_path):
    write_checkpoint(tmp_path, trained, {"licence": "CC0"})
    again = from_pretrained(tmp_path, template_hash="f" * 64)
    assert again.subjects == trained.subjects
    assert again.scans == trained.scans
    assert again.facts == {"seed": 3, "licence": "CC0"}
    for name, value in trained.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_same_model_gives_the_same_bytes(trained, tmp_path):
    for name in ("one", "two"):
        write_checkpoint(tmp_path / name, trained)
    for file in (WEIGHTS, CONFIG, "README.md"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_model_of_another_template_is_refused_by_its_hash(trained, tmp_path):
    write_checkpoint(tmp_path, trained)
    with pytest.raises(CheckpointError, match=r"template ffffffff; the one in use is aaaaaaaa"):
        from_pretrained(tmp_path, template_hash="a" * 64)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kind": "gan"}, "known are the kinds"),
        ({"format": 99}, "in format 1"),
        ({"identity": {"n_hiden": 3}}, "did you mean n_hidden"),
        ({"identity": {"n_hidden": 64}}, "size mismatch"),
    ],
)
def test_a_changed_config_is_refused(trained, tmp_path, change, complaint):
    write_checkpoint(tmp_path, trained)
    config = json.loads((tmp_path / CONFIG).read_text())
    for key, value in change.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=complaint):
        from_pretrained(tmp_path)


def test_weights_that_are_cut_short_or_not_finite_are_refused(trained, tmp_path):
    write_checkpoint(tmp_path, trained)
    arrays, facts = read_safetensors(tmp_path / WEIGHTS)
    arrays["identity.networks.weights.0"] = np.full_like(arrays["identity.networks.weights.0"], np.nan)
    write_safetensors(tmp_path / WEIGHTS, arrays, facts)
    with pytest.raises(CheckpointError, match="not finite"):
        from_pretrained(tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be used"):
        from_pretrained(tmp_path)
