"""The journal: lines without gaps or repeats, progress with the time left, TensorBoard where it is installed."""

import io
import json
import logging
import sys

import pytest

from nphm_core.training.journal import Entry, JsonLines, Progress, TensorBoard, duration, tensorboard_hook


def entry(step: int, stage: str = "identity", **validation: float) -> Entry:
    return Entry(stage, step, 100, {"total": 0.5}, {"learning_rate": 1e-3}, 2.0, 0.01, validation)


def steps(path) -> list[tuple[str, int]]:
    return [(line["stage"], line["step"]) for line in map(json.loads, path.read_text().splitlines())]


def test_lines_after_the_resumed_step_are_taken_out_and_half_lines_too(tmp_path):
    path = tmp_path / "train.jsonl"
    journal = JsonLines(path)
    journal.start("identity", 0)
    for step in (10, 20, 30):
        journal.log(entry(step, total=0.7))
    with path.open("a") as stream:
        stream.write('{"stage": "ident')
    again = JsonLines(path)
    again.start("identity", 20)
    again.log(entry(30))
    again.start("expression", 0)
    again.log(entry(10, "expression"))
    assert steps(path) == [("identity", 10), ("identity", 20), ("identity", 30), ("expression", 10)]
    first = json.loads(path.read_text().splitlines()[0])
    assert first["terms"] == {"total": 0.5}
    assert first["validation"] == {"total": 0.7}
    assert first["seconds_a_step"] == 0.01


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_one_line_with_the_time_left():
    stream = Terminal()
    progress = Progress(stream)
    for step in (10, 20):
        progress.log(entry(step, total=0.75))
    progress.close()
    assert stream.getvalue().count("\n") == 1
    assert "identity 20/100: loss 0.50000, held out 0.75000, 10.0 ms a step, 1 s left" in stream.getvalue()


def test_a_log_file_gets_a_line_an_entry(caplog):
    progress = Progress(io.StringIO())
    with caplog.at_level(logging.INFO):
        progress.start("identity", 40)
        progress.log(entry(50))
    assert "going on after step 40" in caplog.text
    assert "50/100" in caplog.text


@pytest.mark.parametrize(("seconds", "text"), [(42.0, "42 s"), (400.0, "7 min"), (11_100.0, "3 h 05 min")])
def test_times_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_without_tensorboard_there_is_no_hook_and_no_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert tensorboard_hook(tmp_path) is None


def test_tensorboard_is_told_scalars_and_hides_what_a_killed_run_wrote(tmp_path):
    made, scalars = [], []

    class Writer:
        def __init__(self, folder, purge_step):
            made.append((folder, purge_step))

        def add_scalar(self, *values):
            scalars.append(values)

        def close(self):
            made.append("closed")

    hook = TensorBoard(tmp_path, Writer)
    hook.start("identity", 20)
    hook.log(entry(30, total=0.7))
    hook.close()
    assert made == [(str(tmp_path / "identity"), 21), "closed"]
    assert ("terms/total", 0.5, 30) in scalars
    assert ("validation/total", 0.7, 30) in scalars
