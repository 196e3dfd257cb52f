"""Which scans share a job, and how many submissions that makes on a cluster."""

import pytest

from nphm_core.stages import STAGES
from workflow.command_line import asked
from workflow.units import ALONE_UP_TO, AT_ONCE, FEW_AT_ONCE, FEW_UP_TO, Units, scans_at_once


def rows(n_subjects: int, n_scans: int) -> dict[str, dict[str, str]]:
    """Facts of a table: the second scan of each subject is its closed neutral, the third its open one."""
    found = {}
    for k in range(n_scans):
        subject = f"S{k % n_subjects:03d}"
        neutrals = {"identity_scan": f"{subject}/e1", "canonical_scan": f"{subject}/e2"}
        found[f"{subject}/e{k // n_subjects}"] = {"subject": subject, **neutrals}
    return found


def test_a_small_table_has_one_scan_a_job_and_tracks_its_record():
    units = Units(rows(2, 6), "results", scans_at_once(0, 6, []))
    assert list(units.scans) == list(rows(2, 6))
    assert units.tracked("arap", "S000/e1") == "results/scans/S000/e1/stages/arap.json"
    assert not units.several


def test_in_a_large_table_a_subject_is_a_unit_with_the_scans_that_others_read_first():
    table = rows(255, 5200)
    units = Units(table, "results", scans_at_once(0, len(table), []))
    assert len(units.scans) == 255
    assert units.scans["S000"][:3] == ["S000/e1", "S000/e2", "S000/e0"]
    assert sorted(scan for scans in units.scans.values() for scan in scans) == sorted(table)
    # Jobs are one submission where one needs the other: no more than one for each subject, and the template's.
    groups = {unit.split("/")[0].split(".")[0] for unit in units.scans}
    assert len(groups) + 1 <= 260


def test_a_subject_with_many_scans_is_cut_and_its_parts_read_the_first():
    units = Units(rows(1, 60), "results", AT_ONCE)
    assert [len(scans) for scans in units.scans.values()] == [25, 25, 10]
    assert list(units.scans) == ["S000.1", "S000.2", "S000.3"]
    assert units.of("S000/e1") == "S000.1"


@pytest.mark.parametrize(
    ("setting", "n_scans", "files", "expected"),
    [
        (0, ALONE_UP_TO, [], 1),
        (0, ALONE_UP_TO + 1, [], FEW_AT_ONCE),
        (0, FEW_UP_TO + 1, [], AT_ONCE),
        (7, 5200, [], 7),
        (0, 5200, ["results/scans/S1/smile/stages/arap.json"], 1),
        (1, 3, ["results/scans/S1/stages/arap.json"], AT_ONCE),
        (7, 3, ["results/scans/S1.2/stages/arap.json"], 7),
        (0, 3, ["results/summary.tsv", "all"], 1),
    ],
)
def test_what_is_asked_for_by_name_decides_what_shares_a_job(setting, n_scans, files, expected):
    assert scans_at_once(setting, n_scans, files) == expected


def test_tracked_files_are_told_from_others():
    units = Units(rows(1, 60), "results", AT_ONCE)
    names = ["results/scans/S000.2/stages/arap.json", "results/scans/S000/e1/registered.ply", "summary"]
    assert units.asked(names) == [("S000.2", "arap")]
    assert {stage for _, stage in units.scans_of(names)} == {"arap"}
    assert len(units.scans_of(names)) == 25
    assert "arap" in STAGES


def test_the_command_line_is_read_as_snakemake_does():
    found = asked(["--cores", "2", "-n", "-R", "arap", "--", "results/scans/a/b/stages/arap.json"])
    assert (found.is_dry, found.forced, found.keeps_memory) == (True, {"arap"}, True)
    assert "results/scans/a/b/stages/arap.json" in found.files
    job = asked(["--target-jobs", "arap:scans=S1", "--allowed-rules", "arap", "--mode", "remote", "--cores", "1"])
    assert job.files == ("scans/S1/stages/arap.json",)
    assert not asked(["--cores", "2", "--resources", "mem_mb=5"]).keeps_memory
    assert asked(["--no-such-option"]).files == ()


@pytest.mark.parametrize("option", ["--report=r.html", "--summary", "--detailed-summary", "--dag", "--rulegraph"])
def test_what_tells_of_all_jobs_gets_all_of_them_planned(option):
    assert asked(["--cores", "2", option, "--", "all"]).tells_of_all
    assert not asked(["--cores", "2", "--dry-run", "--", "all"]).tells_of_all
