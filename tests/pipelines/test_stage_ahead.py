"""Work ahead: the same bytes as by the stages' own commands, and no record before its turn."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from nphm_core.config import Config
from nphm_core.errors import RegistrationError
from nphm_core.records import hidden_record, read_record, write_record
from nphm_core.stages import STAGES
from nphm_core.work_ahead import VARIABLE, AheadPlan
from pipelines import stage_ahead
from pipelines.stage_ahead import work_ahead

SCAN = "a/neutral"
AFTER_FIT = ("subdivide", "arap", "watertight", "sample_sdf", "sample_delta", "evaluate")


class Stages:
    """Stand-ins for the stages' modules, with a list of what was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.errors: dict[str, Exception] = {}

    def __call__(self, name: str) -> argparse.Namespace:
        return argparse.Namespace(process=lambda job: self._process(name.removeprefix("pipelines."), job))

    def _process(self, name, job):
        self.calls.append(name)
        if name in self.errors:
            raise self.errors[name]
        for needed in job.stage.needs:
            assert job.record(needed)["status"] == "ok"
        for artifact in job.stage.artifacts:
            (job.out / artifact).write_text(name)
        return {}


@pytest.fixture
def stages(monkeypatch):
    stand_in = Stages()
    monkeypatch.setattr(stage_ahead, "import_module", stand_in)
    return stand_in


@pytest.fixture
def options(tmp_path: Path, monkeypatch) -> argparse.Namespace:
    template = tmp_path / "template"
    template.mkdir()
    (template / "template.json").write_text("{}")
    config = Config()
    plan = AheadPlan({name: getattr(config, name).model_dump(mode="json") for name in STAGES}, 0, str(template))
    monkeypatch.setenv(VARIABLE, plan.to_text())
    for name in ("ingest", "render", "landmarks", "backproject", "flame_fit"):
        _record(tmp_path, SCAN, name)
    return argparse.Namespace(results=str(tmp_path))


def _record(results: Path, scan: str, name: str, row: dict | None = None) -> None:
    facts = {"scan": scan, "stage": name, "status": "ok", "artifacts": {}, "metrics": {"row": row or {}}, "key": "k"}
    write_record(results, scan, name, facts)


def test_all_that_follows_is_made_and_only_hidden_records_say_so(stages, options):
    work_ahead(STAGES["flame_fit"], SCAN, options)
    results = Path(options.results)
    assert tuple(stages.calls) == AFTER_FIT
    assert all(hidden_record(results, SCAN, name)["status"] == "ok" for name in AFTER_FIT)
    assert all(read_record(results, SCAN, name) is None for name in AFTER_FIT)


def test_nothing_is_made_twice(stages, options):
    for _ in range(2):
        work_ahead(STAGES["flame_fit"], SCAN, options)
    assert len(stages.calls) == len(AFTER_FIT)


def test_without_a_plan_nothing_is_made_ahead(stages, options, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    work_ahead(STAGES["flame_fit"], SCAN, options)
    assert stages.calls == []


@pytest.mark.parametrize("error", [RegistrationError("too far"), ImportError("no library"), OSError("disk full")])
def test_what_goes_wrong_is_left_to_the_stages_own_command(stages, options, error):
    stages.errors["watertight"] = error
    work_ahead(STAGES["flame_fit"], SCAN, options)
    assert stages.calls == ["subdivide", "arap", "watertight"]
    assert hidden_record(Path(options.results), SCAN, "watertight") is None


def test_a_scan_waits_for_its_subjects_neutral(stages, options):
    results = Path(options.results)
    _record(results, SCAN, "ingest", {"canonical_scan": "a/open"})
    work_ahead(STAGES["flame_fit"], SCAN, options)
    assert stages.calls == ["subdivide", "arap", "watertight", "sample_sdf"]
    for name in ("flame_fit", "arap"):
        _record(results, "a/open", name)
    work_ahead(STAGES["flame_fit"], SCAN, options)
    assert stages.calls[4:] == ["sample_delta", "evaluate"]


def test_nothing_is_tried_after_a_failure(stages, options):
    record = read_record(Path(options.results), SCAN, "flame_fit") | {"status": "failed", "reason": "too far"}
    write_record(Path(options.results), SCAN, "flame_fit", record)
    work_ahead(STAGES["flame_fit"], SCAN, options)
    assert stages.calls == []


def test_a_record_that_snakemake_took_away_stops_the_work(stages, options):
    (Path(options.results) / "scans" / SCAN / "stages" / "backproject.json").unlink()
    work_ahead(STAGES["flame_fit"], SCAN, options)
    assert stages.calls == ["subdivide"]


def test_a_made_scan_costs_no_heavy_import(stages, options, monkeypatch):
    work_ahead(STAGES["flame_fit"], SCAN, options)
    settings = Config().subdivide.model_dump_json()
    folders = ["--results", options.results, "--template", str(Path(options.results) / "template")]
    command = ["subdivide", *folders, "--settings", settings, SCAN]
    code = f"import sys; sys.argv[1:] = {command!r}; from pipelines.__main__ import main; main(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "nothing to do" in done.stderr
    assert not {"numpy", "pydantic"} & set(done.stdout.split())
    assert read_record(Path(options.results), SCAN, "subdivide")["status"] == "ok"
    monkeypatch.delenv(VARIABLE)
