"""The frame of all stage commands: verdicts, reuse, and what a failure leaves behind."""

import argparse
import json
import os
import threading
import time
from pathlib import Path

import pytest

from nphm_core.config import SubdivideConfig
from nphm_core.durable import hold_lock, release_lock
from nphm_core.errors import DamagedFileError, RegistrationError
from nphm_core.records import (
    current_record,
    is_retried,
    read_record,
    read_trouble,
    stage_lock,
    without_seen,
    write_record,
)
from nphm_core.stages import Stage
from nphm_core.time_limit import VARIABLE
from pipelines.stage_command import Job, run_stage, stage_command

STAGE = Stage("subdivide", 1, needs=("flame_fit",), artifacts=("subdivided.ply",), optional_artifacts=("extra.txt",))


class Work:
    """A stage's function that counts its calls and does what a test tells it."""

    def __init__(self, text: str = "mesh", error: Exception | None = None) -> None:
        self.text, self.error, self.scans = text, error, []

    def __call__(self, job: Job) -> dict:
        self.scans.append(job.scan_id)
        if self.error:
            (job.out / "picture.png").write_text("what went wrong")
            raise self.error
        (job.out / "subdivided.ply").write_text(self.text)
        return {"n": 3, "warnings": ["a remark"]}


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    for scan in ("a/neutral", "b/neutral"):
        _earlier(tmp_path, scan)
    return argparse.Namespace(results=str(tmp_path), seed=0)


def _earlier(results: Path, scan: str, **facts) -> None:
    for stage in ("ingest", "flame_fit"):
        record = {"scan": scan, "stage": stage, "status": "ok", "artifacts": {}, "metrics": {"row": {}}, "key": "k"}
        write_record(results, scan, stage, record | (facts if stage == "flame_fit" else {}))


def _run(work: Work, options: argparse.Namespace, scan: str = "a/neutral", stage: Stage = STAGE, **settings) -> dict:
    return run_stage(stage, work, scan, SubdivideConfig(**settings), options)


def test_result_and_remarks_are_recorded(options):
    record = _run(Work(), options)
    assert (record["status"], record["warnings"], record["metrics"]) == ("ok", ["a remark"], {"n": 3})
    assert record["artifacts"]["subdivided.ply"]["bytes"] == 4
    assert (Path(options.results) / "scans/a/neutral/subdivided.ply").read_text() == "mesh"


def test_same_inputs_are_not_worked_on_again(options):
    work = Work()
    first = _run(work, options)
    # Snakemake removes a rule's outputs before it runs the rule.
    (Path(options.results) / "scans/a/neutral/stages/subdivide.json").unlink()
    assert without_seen(_run(work, options)) == without_seen(first)
    assert work.scans == ["a/neutral"]


@pytest.mark.parametrize("damage", ["delete", "truncate", "replace"])
def test_damaged_artifact_is_made_again(options, damage):
    work = Work()
    _run(work, options)
    path = Path(options.results) / "scans/a/neutral/subdivided.ply"
    {"delete": path.unlink, "truncate": lambda: path.write_text("m"), "replace": lambda: path.write_text("MESH")}[
        damage
    ]()
    _run(work, options)
    assert len(work.scans) == 2
    assert path.read_text() == "mesh"


def test_another_setting_version_or_input_gives_another_result(options):
    work = Work()
    _run(work, options)
    _run(work, options, levels=1)
    _run(work, options, levels=1, stage=Stage("subdivide", 2, needs=("flame_fit",), artifacts=("subdivided.ply",)))
    _earlier(Path(options.results), "a/neutral", metrics={"scale": 2})
    _run(work, options, levels=1)
    assert len(work.scans) == 4


def test_failure_is_recorded_with_its_picture_and_removes_old_results(options):
    _run(Work(), options)
    record = _run(Work(error=RegistrationError("too far")), options, levels=1)
    folder = Path(options.results) / "scans/a/neutral"
    assert (record["status"], record["reason"], record["error"]) == ("failed", "too far", "RegistrationError")
    assert list(record["artifacts"]) == ["picture.png"]
    assert not (folder / "subdivided.ply").exists()
    assert not list(folder.glob(".subdivide.*"))


def test_bug_of_ours_is_a_failure_of_one_scan_only(options):
    assert _run(Work(error=ZeroDivisionError("oops")), options)["reason"] == "internal error: oops"
    assert _run(Work(), options, "b/neutral")["status"] == "ok"


def test_trouble_of_the_machine_is_no_verdict(options):
    with pytest.raises(OSError, match="disk full"):
        _run(Work(error=OSError("disk full")), options)
    assert read_record(Path(options.results), "a/neutral", "subdivide") is None


def test_scan_without_an_earlier_result_is_blocked(options):
    _earlier(Path(options.results), "a/neutral", status="failed", reason="no face")
    work = Work()
    record = _run(work, options)
    assert (record["status"], record["blocked_by"], work.scans) == ("blocked", "flame_fit", [])


def test_records_are_the_same_bytes_twice(options):
    path = Path(options.results) / "scans/a/neutral/stages/subdivide.json"
    _run(Work(), options)
    first = path.read_bytes()
    _run(Work(), options, levels=1)
    _run(Work(), options)
    assert path.read_bytes() == first


def test_damaged_hidden_record_counts_as_none(options):
    record = _run(Work(), options)
    hidden = Path(options.results) / "scans/a/neutral/stages/.subdivide.json"
    hidden.write_text(json.dumps(record)[:30])
    assert current_record(Path(options.results), "a/neutral", "subdivide", record["key"]) is None


def test_wrong_settings_end_the_command_with_a_message(options, monkeypatch, caplog):
    arguments = [
        "subdivide",
        "--results",
        options.results,
        "--template",
        "none",
        "--settings",
        '{"levls": 1}',
        "a/neutral",
    ]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match="1"):
        stage_command("subdivide", lambda job: {})
    assert "did you mean levels?" in caplog.text


def test_a_missing_template_ends_the_command_with_a_message(options, monkeypatch):
    arguments = ["subdivide", "--results", options.results, "--template", "none", "a/neutral"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match="1"):
        stage_command("subdivide", Work())
    assert "holds no template.json" in read_trouble(Path(options.results), "a/neutral", "subdivide")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), MemoryError(), DamagedFileError("cut short")]
)
def test_trouble_of_the_machine_is_no_verdict_and_leaves_nothing(options, error):
    with pytest.raises(type(error)):
        _run(Work(error=error), options)
    folder = Path(options.results) / "scans/a/neutral"
    assert read_record(Path(options.results), "a/neutral", "subdivide") is None
    assert [path.name for path in folder.iterdir()] == ["stages"]
    assert not list(folder.glob("stages/.subdivide*"))


def test_what_a_killed_process_left_is_removed(options):
    folder = Path(options.results) / "scans/a/neutral"
    (folder / ".subdivide.99999999").mkdir()
    (folder / ".subdivide.99999999" / "half.ply").write_text("half")
    (folder / "stages" / ".99999999-subdivide.json").write_text("{")
    (folder / "stages" / ".subdivide.lock").touch()
    _run(Work(), options)
    assert {path.name for path in folder.iterdir()} == {"stages", "subdivided.ply", "provenance.json"}
    assert {path.name for path in folder.glob("stages/.*subdivide*")} == {".subdivide.json"}


def test_every_artifact_is_on_the_disk_before_the_record_names_it(options, monkeypatch):
    synced, at_replace = set(), {}
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.add(os.fstat(handle).st_ino), sync(handle)))
    monkeypatch.setattr(
        os,
        "replace",
        lambda old, new: (at_replace.update({Path(new).name: os.stat(old).st_ino in synced}), replace(old, new)),
    )
    _run(Work(), options)
    names = ("subdivided.ply", "provenance.json", ".subdivide.json", "subdivide.json")
    assert at_replace == dict.fromkeys(names, True)


def test_a_stage_that_ran_out_of_time_is_tried_again_with_more(options, monkeypatch):
    stage_key_of = Work()
    record = _run(stage_key_of, options)
    timed_out = record | {"status": "failed", "reason": "slow", "artifacts": {}, "time_limit_s": 60.0}
    write_record(Path(options.results), "a/neutral", "subdivide", timed_out)
    for limit_s, again in (("60", False), ("61", True)):
        monkeypatch.setenv(VARIABLE, limit_s)
        assert is_retried(timed_out) == again
    work = Work()
    assert _run(work, options)["status"] == "ok"
    assert work.scans == ["a/neutral"]


def test_two_processes_at_once_make_a_scan_once(options):
    """The second waits, and then finds it made."""
    work, results = Work(), Path(options.results)
    lock = stage_lock(results, "a/neutral", "subdivide")
    handle = hold_lock(lock)
    second = threading.Thread(target=_run, args=(work, options))
    second.start()
    time.sleep(0.3)
    assert work.scans == []
    release_lock(lock, handle)
    second.join(20)
    assert work.scans == ["a/neutral"]


def test_trouble_with_one_scan_leaves_the_others_of_the_command_alone(options, monkeypatch, tmp_path_factory):
    template = tmp_path_factory.mktemp("template")
    (template / "template.json").write_text("{}")
    results = Path(options.results)

    def process(job: Job) -> dict:
        if job.scan_id == "a/neutral":
            raise DamagedFileError("cut short")
        for name in ("subdivided.ply", "subdivided.json"):
            (job.out / name).write_text("{}")
        return {}

    arguments = ["subdivide", "--results", options.results, "--template", str(template), "a/neutral", "b/neutral"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match="1"):
        stage_command("subdivide", process)
    assert read_trouble(results, "a/neutral", "subdivide") == "cut short"
    assert read_record(results, "b/neutral", "subdivide")["status"] == "ok"
