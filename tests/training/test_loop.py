"""The loop: losses fall, an interrupted run ends as an uninterrupted one, several processes as one."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from nphm_core.errors import TrainingError
from nphm_core.training.journal import Entry
from nphm_core.training.loop import Run, matrix_precision
from nphm_core.training.train_expression import train_expression
from nphm_core.training.train_identity import train_identity
from tests.training import toy

STAGES = ("identity", "expression", "joint")


def on_a_gpu(test):
    """Mark a test that trains on a GPU, where PyTorch compiles what the kernels do not do."""
    # Of PyTorch's compiler: one of what it imports, one of what it reads while it follows the type checks.
    for message in ("`torch.jit.script_method` is deprecated:DeprecationWarning", "The .grad attribute:UserWarning"):
        test = pytest.mark.filterwarnings(f"ignore:{message}")(test)
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")(test))


class Recorder:
    """A hook that remembers, and may stop the run as a kill would."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.entries: list[Entry] = []
        self.starts: list[tuple[str, int]] = []
        self._stop_after = stop_after

    def start(self, stage, step):
        self.starts.append((stage, step))

    def log(self, entry):
        self.entries.append(entry)
        if len(self.entries) >= self._stop_after:
            raise KeyboardInterrupt

    def close(self):
        pass


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stage", STAGES)
def test_losses_fall_in_training_and_on_held_out_subjects(stage):
    recorder = Recorder()
    toy.train(stage, None, n_steps=120, hooks=(recorder,))
    last = {entry.stage: entry for entry in recorder.entries}
    for name, entry in last.items():
        first = next(e for e in recorder.entries if e.stage == name)
        assert entry.terms["total"] < (0.8 if name != "joint" else 1.0) * first.terms["total"]
    held_out = [e.validation["total"] for e in recorder.entries if e.validation]
    assert held_out[-1] < held_out[0]


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_run_ends_bit_equal_to_an_uninterrupted_one(stage, tmp_path):
    whole = toy.result(toy.train(stage, None))
    for n_entries in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            toy.train(stage, tmp_path, hooks=(Recorder(n_entries),))
    recorder = Recorder()
    resumed = toy.result(toy.train(stage, tmp_path, hooks=(recorder,)))
    assert all(step > 0 for _, step in recorder.starts)
    assert equal(whole, resumed)


def test_training_does_not_touch_the_global_generator_or_the_frozen_head():
    state = torch.get_rng_state()
    head = toy.untrained_head()
    trained = toy.train("expression", None, n_steps=3)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in head.identity.state_dict().items():
        assert torch.equal(trained.head.identity.state_dict()[name], value)
    assert torch.equal(trained.head.identity_codes, head.identity_codes)


def test_no_gradient_of_a_frozen_identity_is_computed():
    trained = toy.train("expression", None, n_steps=2)
    assert all(p.grad is None and not p.requires_grad for p in trained.head.identity.parameters())


def test_joint_steps_move_the_identity_too():
    trained, head = toy.train("joint", None, n_steps=8), toy.untrained_head()
    assert not torch.equal(trained.head.identity_codes, head.identity_codes)
    moved = [not torch.equal(a, b) for a, b in zip(
        trained.head.identity.parameters(), head.identity.parameters(), strict=True
    )]  # fmt: skip
    assert all(moved)


def test_a_state_of_other_settings_is_refused(tmp_path):
    toy.train("identity", tmp_path, n_steps=6)
    other = toy.IDENTITY.model_copy(update={"weight_normals": 0.5})
    with pytest.raises(TrainingError, match="other settings"):
        train_identity(toy.spheres(), other, seed=3, validation=toy.spheres(2, 6), run=Run(tmp_path, resume=True))
    # A longer run of the same settings goes on.
    recorder = Recorder()
    toy.train("identity", tmp_path, n_steps=10, hooks=(recorder,))
    assert recorder.starts == [("identity", 6)]


def test_added_subjects_go_on_from_an_earlier_model():
    first = train_identity(toy.spheres(4), toy.IDENTITY, seed=3).head
    frozen = toy.IDENTITY.model_copy(update={"n_steps": 1})
    tiny = frozen.optimiser.model_copy(update={"learning_rate": 1e-12, "code_learning_rate": 1e-12})
    frozen = frozen.model_copy(update={"optimiser": tiny})
    second = train_identity(toy.spheres(6), frozen, seed=4, initial=first).head
    assert second.subjects[:4] == first.subjects
    assert torch.allclose(second.identity_codes[:4], first.identity_codes, atol=1e-6)
    assert torch.allclose(second.identity.networks.weights[0], first.identity.networks.weights[0], atol=1e-6)
    wider = frozen.model_copy(update={"model": toy.MODEL.model_copy(update={"n_hidden": 32})})
    with pytest.raises(TrainingError, match="n_hidden = 24"):
        train_identity(toy.spheres(6), wider, seed=4, initial=first)


def test_a_loss_that_is_no_number_stops_with_a_message_and_leaves_no_such_state(tmp_path):
    settings = toy.IDENTITY.model_copy(
        update={"optimiser": toy.OPTIMISER.model_copy(update={"learning_rate": 1e30, "clip_norm": 1e30})}
    )
    with pytest.raises(TrainingError, match="no finite number"):
        train_identity(toy.spheres(), settings, seed=3, run=Run(tmp_path))
    assert not list(tmp_path.rglob("state-*"))


@pytest.mark.parametrize("name", ["float32", "tf32", "bfloat16"])
def test_the_precision_of_products_is_set_for_the_training_only(name):
    before = torch.get_float32_matmul_precision()
    with matrix_precision(name):
        assert torch.get_float32_matmul_precision() == {"float32": "highest", "tf32": "high"}.get(name, "medium")
    assert torch.get_float32_matmul_precision() == before


@on_a_gpu
@pytest.mark.parametrize("stage", STAGES)
def test_a_gpu_trains_and_resumes_within_float_noise(stage, tmp_path):
    device = torch.device("cuda")
    whole = Recorder()
    toy.train(stage, None, hooks=(whole,), device=device)
    with pytest.raises(KeyboardInterrupt):
        toy.train(stage, tmp_path, hooks=(Recorder(3),), device=device)
    resumed = Recorder()
    toy.train(stage, tmp_path, hooks=(resumed,), device=device)
    assert resumed.entries[-1].terms["total"] == pytest.approx(whole.entries[-1].terms["total"], rel=0.02)


@on_a_gpu
def test_captured_steps_draw_and_move_what_others_do():
    losses = []
    for captured in (True, False):
        recorder, settings = Recorder(), toy.EXPRESSION.model_copy(update={"captured": captured})
        pairs = toy.stretched(device=torch.device("cuda"))
        train_expression(toy.untrained_head(), pairs, settings, seed=3, run=Run(hooks=(recorder,)))
        losses.append([entry.terms["total"] for entry in recorder.entries])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@on_a_gpu
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_less_precise_products_give_the_same_loss(precision):
    losses = []
    for name in ("float32", precision):
        recorder = Recorder()
        settings = toy.IDENTITY.model_copy(update={"precision": name, "n_steps": 5})
        train_identity(toy.spheres(device=torch.device("cuda")), settings, seed=3, run=Run(hooks=(recorder,)))
        losses.append(recorder.entries[-1].terms)
    for name, value in losses[0].items():
        assert losses[1][name] == pytest.approx(value, rel=0.01, abs=1e-4), name


def start(folder, stage, *, processes=1, n_steps=40) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.training.toy", stage, str(folder), str(n_steps)]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *launcher, "-m", "tests.training.toy_processes", *command[3:]]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_ten_times_at_random_ends_bit_equal(stage, tmp_path):
    n_steps = 1500
    finish(start(tmp_path / "whole", stage, n_steps=n_steps))
    random.seed(5)
    kills = 0
    while kills < 10:
        process = start(tmp_path / "killed", stage, n_steps=n_steps)
        states = tmp_path / "killed"
        before, deadline = newest(states), time.monotonic() + 60
        while newest(states) <= before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        # Some steps, or the writing of a state; a fast machine must not reach the end before the tenth kill.
        time.sleep(0.15 * random.random())
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    assert kills == 10
    finish(start(tmp_path / "killed", stage, n_steps=n_steps))
    one, other = (load_file(tmp_path / name / "result.safetensors") for name in ("whole", "killed"))
    assert equal(one, other)
    for name in ("whole", "killed"):
        lines = [json.loads(line) for line in (tmp_path / name / "train.jsonl").read_text().splitlines()]
        steps = [(line["stage"], line["step"]) for line in lines]
        assert len(set(steps)) == len(steps)
    assert len({step for _, step in steps}) >= n_steps // 2 // 5


def newest(folder) -> tuple[str, str]:
    """The stage and name of the newest state, expression before joint."""
    return max(((path.parent.name, path.name) for path in folder.rglob("state-*.safetensors")), default=("", ""))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_give_what_one_gives(stage, tmp_path):
    finish(start(tmp_path / "one", stage))
    finish(start(tmp_path / "two", stage, processes=2))
    one, two = (load_file(tmp_path / name / "result.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=2e-4), (name, (one[name] - two[name]).abs().max())
