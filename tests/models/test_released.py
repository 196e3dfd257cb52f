"""The released networks' values, from their checkpoints; and checkpoints that want to do harm."""

import os
import pickle

import numpy as np
import pytest
import torch

from nphm_core.errors import CheckpointError
from nphm_core.models.released import read_released, write_released


def _relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.detach() - wanted).abs().max() / wanted.abs().max())


def test_released_identity_gives_the_released_values(released_head, parity):
    codes = released_head.identity_codes[parity["subjects"]]
    sdf, gradient = released_head.identity.sdf_and_gradient(parity["points"], codes)
    assert _relative(released_head.identity.sdf(parity["points"], codes), parity["sdf"]) < 1e-5
    assert _relative(sdf, parity["sdf"]) < 1e-5
    assert _relative(gradient, parity["sdf_gradient"]) < 1e-5
    assert _relative(released_head.identity.anchors(codes), parity["anchors"]) < 1e-5


def test_released_expression_gives_the_released_deformation(released_head, parity):
    identity = released_head.identity_codes[parity["subjects"]]
    expression = released_head.expression_codes[parity["expressions"]]
    moved = released_head.posed(parity["points"], identity, expression) - parity["points"]
    assert _relative(moved, parity["deformation"]) < 1e-5


def test_released_networks_have_the_released_numbers_of_parameters(released_head):
    assert sum(p.numel() for p in released_head.identity.parameters()) == 3_014_149
    assert sum(p.numel() for p in released_head.expression.parameters()) == 1_361_880


def test_what_is_written_in_the_released_layout_is_read_back_the_same(released_head, tmp_path):
    files = tmp_path / "identity.tar", tmp_path / "expression.tar"
    write_released(released_head, *files)
    again = read_released(*files, released_head.identity.mean_anchors)
    for name, value in released_head.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_exported_files_have_the_keys_of_the_released_ones(released_head, released_files, tmp_path):
    write_released(released_head, tmp_path / "identity.tar", tmp_path / "expression.tar")
    for ours, theirs in zip((tmp_path / "identity.tar", tmp_path / "expression.tar"), released_files, strict=False):
        ours, theirs = torch.load(ours, weights_only=True), torch.load(theirs, weights_only=True)
        assert ours.keys() == theirs.keys()
        for part in ours:
            if isinstance(ours[part], dict):
                assert {k: v.shape[1:] for k, v in ours[part].items()} == {
                    k: v.shape[1:] for k, v in theirs[part].items()
                }


class _Harm:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_a_malicious_checkpoint_executes_nothing(tmp_path, anchors, kind):
    marker, path = tmp_path / "harm", tmp_path / "bad.tar"
    stored = {"decoder_state_dict": _Harm(str(marker)), "latent_codes_state_dict": {"weight": torch.zeros(1, 8)}}
    if kind == "torch":
        torch.save(stored, path)
    else:
        path.write_bytes(pickle.dumps(_Harm(str(marker))))
    with pytest.raises(CheckpointError, match=r"without\s+code"):
        read_released(path, None, anchors)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04" + b"\0" * 50])
def test_a_damaged_checkpoint_is_refused_in_words(tmp_path, anchors, content):
    path = tmp_path / "identity.tar"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be used"):
        read_released(path, None, anchors)


def test_other_networks_than_released_are_refused(tmp_path, anchors):
    path = tmp_path / "identity.tar"
    torch.save(
        {"decoder_state_dict": {"lin0.weight": torch.zeros(3, 3)}, "latent_codes_state_dict": {"weight": torch.eye(3)}},
        path,
    )
    with pytest.raises(CheckpointError, match="cannot be used"):
        read_released(path, None, anchors)


def test_parity_data_are_those_described(parity):
    assert parity["points"].shape == (3, 400, 3)
    assert np.isfinite(parity["sdf"].numpy()).all()
