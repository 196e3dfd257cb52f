"""Kills, full disks, hanging scans, edited tables and second runs: the real rules with stand-ins for the stages.

After each of them the same command, given again, finishes the rest. `benchmarks/fault_injection.py` does the same at
random with the real stages.
"""

import subprocess
import time
from pathlib import Path

import pytest

from nphm_core.provenance import FILE
from nphm_core.records import read_record
from nphm_core.stages import STAGES
from tests.workflow.test_what_runs_when import Clone

pytestmark = pytest.mark.slow


class Scans(Clone):
    """A clone with one scan for each word; the word is what the scan does."""

    def __init__(self, repository: Path, folder: Path, **scans: str) -> None:
        super().__init__(repository, folder)
        # As in the repository: the default profile is found by itself.
        (folder / "profiles").symlink_to("workflow/profiles")
        self.write_table(scans)
        for name, text in scans.items():
            (folder / f"{name}.ply").write_text(text)

    def write_table(self, scans) -> None:
        rows = "".join(f"{name}\trest\tclosed\t{name}.ply\n" for name in scans)
        (self.folder / "scans.tsv").write_text("subject\texpression\tneutral\tpath\n" + rows)

    def record(self, name: str, stage: str = "evaluate") -> dict | None:
        return read_record(self.folder / "results", f"{name}/rest", stage)

    def wait_for(self, path: str) -> None:
        for _ in range(600):
            if (self.folder / path).exists():
                return
            time.sleep(0.05)
        pytest.fail(f"{path} never came")

    def contents(self) -> dict[str, bytes]:
        """All artifacts and records; provenance and hidden records tell of times."""
        folder = self.folder / "results" / "scans"
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != FILE and path.name[0] != "."]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_after_a_kill_of_snakemake_the_same_command_finishes_the_rest(repository, tmp_path_factory):
    folders = [tmp_path_factory.mktemp(name) for name in ("disturbed", "peaceful")]
    scans, peaceful = (Scans(repository, folder, A="slow", B="a face", C="no face") for folder in folders)
    process = scans.start()
    scans.wait_for("landmarks.started")
    process.kill()
    process.communicate()
    assert scans.record("A") is None
    scans.snakemake()
    peaceful.snakemake()
    assert scans.contents() == peaceful.contents()
    assert "Nothing to be done" in scans.snakemake()


def test_a_second_run_is_refused_and_does_not_disturb_the_first(repository, tmp_path):
    scans = Scans(repository, tmp_path, A="slow")
    process = scans.start()
    scans.wait_for("landmarks.started")
    assert "another run is working on it" in scans.snakemake(fails=True)
    process.communicate()
    assert process.returncode == 0
    assert scans.record("A")["metrics"]["verdict"] == "ok"


def test_a_scan_that_hangs_fails_alone_and_gets_more_time_when_the_limit_is_raised(repository, tmp_path):
    scans = Scans(repository, tmp_path, A="hangs", B="a face")
    scans.set_config("stage_timeout_s: 2.0\n")
    scans.snakemake()
    record = scans.record("A", "landmarks")
    assert (record["status"], record["error"]) == ("failed", "TimeLimitError")
    assert "the time limit of 2 s was reached" in (tmp_path / "results" / "summary.tsv").read_text()
    assert scans.record("B")["metrics"]["verdict"] == "ok"
    assert "Nothing to be done" in scans.snakemake("--dry-run")
    scans.set_config("stage_timeout_s: 3.0\n")
    after = list(STAGES)[list(STAGES).index("landmarks") :]
    assert scans.jobs("--dry-run") == {f"{stage} A/rest" for stage in after}


def test_a_full_disk_is_no_verdict_and_the_rest_is_made_when_there_is_room(repository, tmp_path):
    scans = Scans(repository, tmp_path, A="fills the disk", B="a face")
    output = scans.snakemake(fails=True)
    assert scans.record("A", "landmarks") is None
    assert scans.record("B")["metrics"]["verdict"] == "ok"
    assert "A/rest in landmarks" in output
    assert "the disk is full" in output[output.rindex("A/rest in landmarks") :]
    (tmp_path / "disk.free").touch()
    before = scans.contents()
    scans.snakemake()
    assert scans.record("A")["metrics"]["verdict"] == "ok"
    assert {name: scans.contents()[name] for name in before if name.startswith("B/")} == {
        name: content for name, content in before.items() if name.startswith("B/")
    }


def test_a_table_edited_during_a_run_counts_in_the_next_one(repository, tmp_path):
    scans = Scans(repository, tmp_path, A="slow", B="a face")
    (tmp_path / "C.ply").write_text("a face")
    process = scans.start()
    scans.wait_for("landmarks.started")
    scans.write_table("AC")
    process.communicate()
    scans.snakemake()
    assert scans.record("C")["metrics"]["verdict"] == "ok"
    lines = (tmp_path / "results" / "summary.tsv").read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines[1:]] == [["A/rest", "ok"], ["C/rest", "ok"]]
    assert "Nothing to be done" in scans.snakemake()


def test_a_run_in_which_nearly_all_fails_stops_early_and_says_why(repository, tmp_path):
    names = [f"S{number}" for number in range(6)]
    scans = Scans(repository, tmp_path, **dict.fromkeys(names, "no face"))
    scans.set_config("stop_after_scans: 3\nstop_failed_share: 0.5\n")
    output = scans.snakemake(fails=True)
    assert "The run stops early: 3 of the first 3 scans failed" in output
    assert "3 in landmarks, as S" in output
    assert "no face was found" in output
    assert sum(scans.record(name) is not None for name in names) < 6
    scans.set_config("stop_failed_share: 1.0\n")
    scans.snakemake()
    assert all(scans.record(name)["metrics"].get("verdict", "failed") == "failed" for name in names)


def test_results_that_cannot_be_written_are_told_at_once(repository, tmp_path):
    scans = Scans(repository, tmp_path, A="a face")
    results = tmp_path / "results"
    results.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "none", str(results)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        assert "the results folder cannot be written (Read-only file system)" in scans.snakemake(fails=True)
    finally:
        subprocess.run(["umount", "--lazy", str(results)], check=True)
    scans.snakemake()
