"""The real rules with stages that do next to nothing: what runs, what comes back, what a failure stops."""

import re
import shutil
from pathlib import Path

import pytest

from nphm_core.stages import STAGES
from tests.workflow.runs import AFTER_ARAP, AFTER_FIT, StandIns, of_scan, put_back

pytestmark = pytest.mark.slow

TABLE = "subject\texpression\tneutral\tpath\n" + "".join(
    f"{subject}\t{expression}\t{neutral}\t{subject}-{expression}.ply\n"
    for subject, expression, neutral in (
        ("A", "rest", "closed"),
        ("A", "open", "open"),
        ("B", "rest", "closed"),
    )
)


class Clone(StandIns):
    """Three scans: A's two, and B's without a face."""

    def __init__(self, repository: Path, folder: Path) -> None:
        super().__init__(repository, folder)
        (folder / "scans.tsv").write_text(TABLE)
        for scan, text in (("A-rest", "a face"), ("A-open", "a face"), ("B-rest", "no face")):
            (folder / f"{scan}.ply").write_text(text)


PARTS = ("identity", "head")
ALL_SCANS = ("A/rest", "A/open", "B/rest")


@pytest.fixture(scope="module")
def first_run(repository, tmp_path_factory):
    """The clone after its first run, and what that printed."""
    clone = Clone(repository, tmp_path_factory.mktemp("clone"))
    return clone, clone.snakemake()


@pytest.fixture
def clone(first_run):
    """The clone, up to date and with its own settings again."""
    clone = first_run[0]
    yield clone
    if clone.config:
        clone.set_config("")
        clone.snakemake()


def test_a_scan_without_a_face_stops_no_other_and_is_named_at_the_end(first_run):
    clone, output = first_run
    for scan in ("A/rest", "A/open"):
        assert clone.artifact(scan, "registered.ply").is_file()
    assert not clone.artifact("B/rest", "registered.ply").exists()
    assert "all stages of all 3 scans" in output
    end = output[output.rindex("Every scan has its verdict") :]
    assert "B/rest" in end
    assert "landmarks" in end
    assert "no face was found" in end


def test_the_first_job_of_a_scan_makes_what_follows_and_the_others_find_it(first_run):
    clone, _ = first_run
    logs = {stage: (clone.folder / "logs" / stage / "A" / "rest.log").read_text() for stage in STAGES}
    assert "made landmarks ahead" in logs["ingest"]
    # The template may come after the first job, and sample_delta waits for the subject's other scan.
    for stage in ("render", "landmarks", "flame_fit", "subdivide", "arap", "watertight", "sample_sdf"):
        assert "nothing to do" in logs[stage]
    failed = (clone.folder / "logs" / "landmarks" / "B" / "rest.log").read_text()
    assert "nothing to do" not in failed, "what goes wrong ahead is left to the stage's own process"
    assert "no face was found" in failed


def test_nothing_runs_again_when_nothing_changed(clone):
    assert "Nothing to be done" in clone.snakemake()


def test_a_deleted_artifact_comes_back_and_nothing_of_another_scan_runs(clone):
    # Of all scans this one has the most that depends on it: the subject's other scans take its identity.
    lost = clone.artifact("A/rest", "flame.npz")
    before = lost.read_bytes()
    other = clone.artifact("A/open", "stages/flame_fit.json").stat().st_mtime_ns
    lost.unlink()
    assert clone.jobs("--dry-run") == of_scan("A/rest", *AFTER_FIT)
    assert not lost.exists(), "a dry run changes nothing"
    assert clone.jobs() == of_scan("A/rest", *AFTER_FIT)
    assert lost.read_bytes() == before
    assert clone.artifact("A/open", "stages/flame_fit.json").stat().st_mtime_ns == other
    assert "Nothing to be done" in clone.snakemake()


def test_after_other_permissions_or_a_restored_backup_nothing_is_made_and_nothing_trained(clone):
    results, models = clone.folder / "results", ("training_set.tsv", *(f"models/nphm/{x}/config.json" for x in PARTS))
    for name in models:
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("made after the scans")
    assert "Nothing to be done" in clone.snakemake("--", "model")
    clone.artifact("A/rest", "flame.npz").chmod(0o600)
    (clone.folder / "A-open.ply").touch()
    assert "their contents are compared" in (output := clone.snakemake("--", "model"))
    assert "Nothing to be done" in output
    put_back(results)
    assert "A dry run keeps nothing" in clone.snakemake("--dry-run", "--", "model")
    assert "Nothing to be done" in clone.snakemake("--", "model")
    assert "their contents are compared" not in (output := clone.snakemake("--", "model"))
    assert "Nothing to be done" in output
    shutil.rmtree(results / "models")
    (results / models[0]).unlink()


def test_a_run_of_one_scan_tells_nothing_of_the_others(clone):
    clone.artifact("A/open", "stages/evaluate.json").unlink()
    assert "B/rest" not in clone.snakemake("results/scans/A/open/stages/evaluate.json")
    clone.snakemake()


def test_a_cut_artifact_and_a_deleted_record_are_made_anew(clone):
    cut = clone.artifact("A/open", "samples_delta.safetensors")
    whole = cut.read_text()
    cut.write_text(whole[:-1])
    record = clone.artifact("B/rest", "stages/sample_sdf.json")
    record.unlink()
    expected = of_scan("A/open", "sample_delta", "evaluate") | of_scan("B/rest", "sample_sdf", "evaluate")
    assert clone.jobs() == expected
    assert cut.read_text() == whole
    assert record.is_file()


def test_a_changed_setting_runs_its_stage_and_what_follows(clone):
    clone.set_config("sample_sdf:\n  n_near: 7\n")
    assert clone.jobs() == set().union(*(of_scan(scan, "sample_sdf", "evaluate") for scan in ALL_SCANS))


def test_a_changed_setting_is_not_missed_while_a_lost_artifact_comes_back(clone):
    clone.artifact("A/rest", "flame.npz").unlink()
    clone.set_config("arap:\n  stiffness_end: 0.07\n")
    assert clone.jobs() >= set().union(*(of_scan(scan, *AFTER_ARAP) for scan in ALL_SCANS))
    assert "Nothing to be done" in clone.snakemake()


def test_a_raised_version_runs_its_stage_and_a_renamed_variable_does_not(clone):
    stages = clone.folder / "nphm_core" / "stages.py"
    text = stages.read_text()
    try:
        stages.write_text(re.sub(r"\b_STAGES\b", "_STEPS", text))
        assert "Nothing to be done" in clone.snakemake("--dry-run")
        raised = re.sub(r'(Stage\(\s*"subdivide",\s*)(\d+)', r"\g<1>9\2", text)
        assert raised != text
        stages.write_text(raised)
        expected = set().union(*(of_scan(scan, "subdivide", *AFTER_ARAP) for scan in ALL_SCANS))
        assert clone.jobs("--dry-run") == expected
    finally:
        stages.write_text(text)


def test_a_missing_file_is_that_scans_verdict_and_its_arrival_is_seen(clone):
    scan = clone.folder / "A-open.ply"
    text = scan.read_text()
    scan.unlink()
    assert "does not exist" in clone.snakemake()
    assert not clone.artifact("A/open", "registered.ply").exists()
    scan.write_text(text)
    assert "ingest A/open" in clone.jobs()
    assert clone.artifact("A/open", "registered.ply").is_file()


def test_too_many_failed_scans_make_the_run_an_error_each_time(clone):
    clone.set_config("max_failed_share: 0.1\n")
    for _ in range(2):
        assert "max_failed_share" in clone.snakemake("--show-failed-logs", fails=True)
    assert (clone.folder / "results" / "summary.tsv").is_file()


def test_an_unknown_setting_names_the_nearest_one(clone):
    clone.set_config("arap:\n  stifness_end: 0.06\n")
    assert "did you mean stiffness_end?" in clone.snakemake("--dry-run", fails=True)


def test_jobs_of_several_scans_find_what_single_ones_made_and_lose_nothing(clone):
    clone.set_config("scans_per_job: 25\n")
    # A change of the layout writes what Snakemake tracks anew, and makes nothing.
    made = {path: path.stat().st_mtime_ns for path in (clone.folder / "results" / "scans").rglob("*.ply")}
    clone.snakemake()
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert "Nothing to be done" in clone.snakemake()
    clone.artifact("A/open", "flame.npz").unlink()
    output = clone.snakemake("--printshellcmds")
    jobs = re.findall(r"python -m pipelines (\w+) .* A/rest A/open > ", output)
    assert sorted(jobs) == sorted(AFTER_FIT), "one job for both scans of A, none for B"
    assert clone.artifact("A/open", "flame.npz").is_file()
    log = clone.folder / "logs" / "flame_fit" / "A" / "open.log"
    assert "A/open: ok" in log.read_text()
    assert "Nothing to be done" in clone.snakemake()
    # One scan by its name, whatever shares its jobs.
    clone.artifact("A/open", "samples_sdf.safetensors").unlink()
    record = "results/scans/A/open/stages/sample_sdf.json"
    assert clone.jobs(record) == of_scan("A/open", "sample_sdf")


def test_a_forced_stage_runs_again_although_it_is_current(clone):
    weights = clone.artifact("A/rest", "registered_weights.npz")
    before = weights.stat().st_mtime_ns
    assert clone.jobs("--forcerun", "arap") == set().union(*(of_scan(scan, *AFTER_ARAP) for scan in ALL_SCANS))
    assert weights.stat().st_mtime_ns > before
