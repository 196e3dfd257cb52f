"""What a run will do in words, and how far it is, from events as Snakemake gives them."""

import io
import json
import logging
from pathlib import Path

import pytest

from nphm_core.stages import STAGES
from workflow.forecast import COSTS, Forecast, duration_text
from workflow.progress import Progress


class Run:
    """A run of three scans on a clock that the test moves."""

    def __init__(self, folder: Path, *, dry: bool = False, quiet: bool = False) -> None:
        self.now_s, self.stream, self.folder = 1000.0, io.StringIO(), folder
        self.progress = Progress(
            Forecast(3, [("a/blur", "moved"), ("b/blur", "moved"), ("c/x", "")], folder, lambda: 4, ("nphm",)),
            is_dry_run=lambda: dry,
            is_quiet=lambda: quiet,
            record_of=lambda scan_id: folder / f"{scan_id.replace('/', '-')}.json",
            stream=self.stream,
            clock=lambda: self.now_s,
            interval_s=10,
        )

    def event(self, name: str = "", text: str = "", **more) -> None:
        record = logging.LogRecord("snakemake", logging.INFO, "", 0, text, None, None)
        record.__dict__ |= {"event": name, **more}
        self.progress.handle(record)

    def job(self, number: int, rule: str, scan: str, seconds: float, verdict: str | None = None) -> None:
        subject, expression = scan.split("/")
        wildcards = {"scans": scan}
        if verdict:
            record = {"status": "ok", "metrics": {"verdict": verdict}}
            (self.folder / f"{subject}-{expression}.json").write_text(json.dumps(record))
        self.event("job_info", jobid=number, rule_name=rule, wildcards=wildcards)
        self.event("job_started", jobs=[number])
        self.now_s += seconds
        self.event("job_finished", job_id=number)

    @property
    def said(self) -> str:
        return self.stream.getvalue()


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_done_failed_and_left_are_counted_with_rate_and_end(run):
    run.event("run_info", stats={"arap": 3, "evaluate": 3, "summary": 1, "total": 7})
    run.job(1, "arap", "a/x", 30)
    run.job(2, "evaluate", "a/x", 30, "ok")
    run.job(3, "arap", "b/x", 30)
    run.job(4, "evaluate", "b/x", 30, "failed")
    line = run.said.splitlines()[-1]
    assert "scans: 2 of 3 done, 1 of them failed, 1 left" in line
    assert "jobs: 4 of 7" in line
    # Two scans in 120 s; the third needs two jobs of 30 s, one at a time.
    assert "60 scans an hour" in line
    assert "60 s left, done at about" in line


def test_jobs_at_once_shorten_the_estimate(run):
    run.event("run_info", stats={"arap": 4, "evaluate": 1, "total": 5})
    for number in (1, 2):
        run.event("job_info", jobid=number, rule_name="arap", wildcards={"scans": f"a/{number}"})
    run.event("job_started", jobs=[1, 2])
    run.now_s += 20
    run.event("job_finished", job_id=1)
    run.event("job_finished", job_id=2)
    left = 2 * 20 + COSTS["evaluate"][0] + 0.5
    assert f"{duration_text(left / 2)} left" in run.progress.line()


def test_lines_come_no_more_often_than_the_interval(run):
    run.event("run_info", stats={"arap": 30, "evaluate": 30, "total": 60})
    before = len(run.said.splitlines())
    for number in range(30):
        run.job(number, "arap", f"a/x{number}", 1)
    assert len(run.said.splitlines()) - before == 3


def test_a_record_that_is_missing_counts_as_failed(run):
    run.event("run_info", stats={"evaluate": 2, "total": 2})
    run.job(1, "evaluate", "a/x", 30)
    assert "1 of them failed" in run.said


def test_errors_of_the_machine_are_told(run):
    run.event("run_info", stats={"evaluate": 2, "total": 2})
    run.event("job_error", jobid=7)
    run.job(1, "evaluate", "a/x", 30, "ok")
    assert "1 jobs ended with an error" in run.said


def test_a_dry_run_ends_with_the_plan_in_words(tmp_path):
    run = Run(tmp_path, dry=True)
    run.event("run_info", stats={**dict.fromkeys(STAGES, 3), "summary": 1, "train_identity": 1, "total": 35})
    assert run.said == ""
    run.event(text="This was a dry-run (flag -n). The order of jobs does not reflect the order of execution.")
    assert "all stages of all 3 scans" in run.said
    total_s = 3 * sum(cost[0] + 0.5 for cost in COSTS.values())
    assert f"about {duration_text(total_s)} of one core, {duration_text(total_s / 4)} on 4 cores" in run.said
    assert f"{3 * sum(cost[1] for cost in COSTS.values()):.0f} MB" in run.said
    assert "left out: 3 scans" in run.said
    assert "moved: 2 scans" in run.said
    assert "no reason given: c/x" in run.said
    assert "train_identity of 1 model" in run.said


def test_a_run_says_what_it_does_before_it_starts(run):
    run.event("run_info", stats={"evaluate": 2, "summary": 1, "total": 3})
    assert "evaluate of 2 scans" in run.said


def test_a_quiet_run_says_nothing(tmp_path):
    run = Run(tmp_path, quiet=True)
    run.event("run_info", stats={"evaluate": 2, "total": 2})
    run.job(1, "evaluate", "a/x", 30, "ok")
    assert run.said == ""


def test_a_disk_that_is_too_small_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("workflow.forecast.shutil.disk_usage", lambda path: type("Usage", (), {"free": 2e9})())
    text = Forecast(900, [], tmp_path / "not" / "there", lambda: None).text(dict.fromkeys(STAGES, 900))
    assert "NOT ENOUGH DISK: 2 GB are free" in text


def test_every_stage_has_its_cost():
    assert list(COSTS) == list(STAGES)


@pytest.mark.parametrize(("seconds", "text"), [(59, "59 s"), (600, "10 min"), (7200, "2.0 h"), (400_000, "4.6 days")])
def test_durations_are_told_as_people_do(seconds, text):
    assert duration_text(seconds) == text
