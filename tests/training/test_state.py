"""States on disk: what was written comes back, and damage falls back to the state before."""

import logging

import pytest
import torch

from nphm_core.errors import TrainingError
from nphm_core.training.state import StateFolder, load_optimiser, optimiser_tensors

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(4, dtype=torch.int64)}


def damage(path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        data[-3] ^= 1
        path.write_bytes(data)


def test_a_state_comes_back_as_it_was(tmp_path):
    StateFolder(tmp_path, "key").write(12, TENSORS)
    state = StateFolder(tmp_path, "key").newest()
    assert state is not None
    assert state.step == 12
    assert all(torch.equal(state.tensors[name], value) for name, value in TENSORS.items())
    assert StateFolder(tmp_path / "empty", "key").newest() is None


def test_the_last_two_states_are_kept(tmp_path):
    folder = StateFolder(tmp_path, "key")
    for step in (5, 10, 15):
        folder.write(step, TENSORS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "state-000000010.safetensors",
        "state-000000015.safetensors",
    ]


@pytest.mark.parametrize("how", ["cut", "empty", "flipped"])
def test_a_damaged_state_falls_back_to_the_one_before_with_a_warning(tmp_path, caplog, how):
    folder = StateFolder(tmp_path, "key")
    folder.write(5, TENSORS)
    damage(folder.write(10, TENSORS), how)
    with caplog.at_level(logging.WARNING):
        state = folder.newest()
    assert state is not None
    assert state.step == 5
    assert "damaged state" in caplog.text
    folder.clear(after=5)
    assert [path.name for path in tmp_path.iterdir()] == ["state-000000005.safetensors"]


def test_what_a_killed_run_left_unfinished_is_no_state(tmp_path):
    (tmp_path / ".77-state-000000010.safetensors").write_bytes(b"half")
    folder = StateFolder(tmp_path, "key")
    assert folder.newest() is None
    folder.clear()
    assert not list(tmp_path.iterdir())


def test_a_state_of_another_run_is_refused(tmp_path):
    StateFolder(tmp_path, "one").write(5, TENSORS)
    with pytest.raises(TrainingError, match="other settings"):
        StateFolder(tmp_path, "other").newest()


def test_an_optimiser_goes_on_as_if_nothing_had_happened():
    def step(layer, optimiser):
        layer(torch.ones(1, 3)).sum().backward()
        optimiser.step()
        optimiser.zero_grad()

    layers = [torch.nn.Linear(3, 2) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    one, other = (torch.optim.AdamW(layer.parameters(), lr=0.1) for layer in layers)
    step(layers[0], one)
    layers[1].load_state_dict(layers[0].state_dict())
    load_optimiser(other, "adamw", {name: value.clone() for name, value in optimiser_tensors(one, "adamw").items()})
    for layer, optimiser in zip(layers, (one, other), strict=True):
        step(layer, optimiser)
    assert torch.equal(layers[0].weight, layers[1].weight)
