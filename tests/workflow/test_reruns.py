"""Reruns with the real stages, on two synthetic scans: only what changed or got lost is made again."""

import re
import subprocess
import sys

import pytest

from nphm_core.io.scan_table import read_scan_table
from tests.workflow.runs import AFTER_ARAP, AFTER_FIT, Copy, of_scan

pytestmark = pytest.mark.slow

SCANS = ("s001/neutral", "s001/mouth-open")


@pytest.fixture(scope="module")
def done(repository, tmp_path_factory):
    """Two scans of one subject, registered."""
    folder = tmp_path_factory.mktemp("copy")
    copy = Copy(repository, folder, "nphm_core", "pipelines", "workflow", "envs", cache=repository / ".cache")
    command = [sys.executable, "-m", "pipelines.demo_scans", "--subjects", "1", "--expressions", "2", "--out", "."]
    subprocess.run([*command, "--cache", str(repository / ".cache")], cwd=folder, check=True, stdin=subprocess.DEVNULL)
    assert tuple(row.scan_id for row in read_scan_table(folder / "scans.tsv").rows) == SCANS
    copy.snakemake()
    for scan in SCANS:
        assert copy.artifact(scan, "registered.ply").is_file()
        assert copy.artifact(scan, "quality.png").is_file()
    return copy


def test_a_run_ends_with_a_verdict_for_every_scan(done):
    lines = (done.folder / "results" / "summary.tsv").read_text().splitlines()
    verdicts = {line.split("\t")[0]: line.split("\t")[1] for line in lines[1:]}
    assert set(verdicts) == set(SCANS)
    assert set(verdicts.values()) <= {"ok", "suspicious"}


def test_nothing_runs_again_when_nothing_changed(done):
    assert "Nothing to be done" in done.snakemake()


def test_a_deleted_fit_comes_back_the_same_and_nothing_of_the_other_scan_runs(done):
    # Of the subject's scans the neutral has the most that depends on it: it fixes the identity.
    lost = done.artifact("s001/neutral", "flame.npz")
    before = lost.read_bytes()
    lost.unlink()
    assert done.jobs() == of_scan("s001/neutral", *AFTER_FIT)
    assert lost.read_bytes() == before
    assert "Nothing to be done" in done.snakemake()


def test_only_a_raised_version_makes_a_code_change_run(done):
    code, stages = done.folder / "nphm_core" / "registration" / "arap.py", done.folder / "nphm_core" / "stages.py"
    code.write_text(re.sub(r"\bvertices\b", "positions", code.read_text()))
    assert "Nothing to be done" in done.snakemake("--dry-run")
    text = stages.read_text()
    raised = re.sub(r'(Stage\(\s*"sample_delta",\s*)(\d+)', r"\g<1>9\2", text)
    assert raised != text
    try:
        stages.write_text(raised)
        assert done.jobs("--dry-run") == set().union(*(of_scan(s, "sample_delta", "evaluate") for s in SCANS))
    finally:
        stages.write_text(text)


def test_a_changed_arap_setting_runs_arap_and_what_follows(done):
    done.set_config("arap:\n  stiffness_end: 0.07\n")
    assert done.jobs() == set().union(*(of_scan(scan, *AFTER_ARAP) for scan in SCANS))
    assert "Nothing to be done" in done.snakemake()
