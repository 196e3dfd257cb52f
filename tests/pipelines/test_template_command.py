"""The command that builds a template."""

import json
from pathlib import Path

import pytest

from nphm_core.config import Config, TemplateConfig
from nphm_core.records import template_folder
from nphm_core.template.template import read_template
from pipelines.template import cached_template, is_current, main
from workflow.planning import Plan


def test_another_model_or_version_gets_another_folder(monkeypatch):
    first = template_folder("cache", {"source": "embedded"})
    second = template_folder("cache", {"source": "models/flame2023.npz"})
    assert first.startswith("cache/templates/embedded-")
    assert second.startswith("cache/templates/flame2023-")
    assert first[-8:] != second[-8:]
    monkeypatch.setattr("nphm_core.records.TEMPLATE_VERSION", 99)
    assert template_folder("cache", {"source": "embedded"}) != first


def test_the_command_looks_where_the_workflow_does(tmp_path, monkeypatch):
    settings = TemplateConfig(source="models/flame2023.npz")
    plan = object.__new__(Plan)
    plan.settings = Config(template=settings, cache=str(tmp_path))
    monkeypatch.setattr("pipelines.template.is_current", lambda folder, settings: True)
    assert str(cached_template(str(tmp_path), settings)) == plan.template_folder


def test_missing_model_ends_with_one(tmp_path, caplog):
    assert main(["--source", str(tmp_path / "none.npz"), "--out", str(tmp_path / "t")]) == 1
    assert "does not exist" in caplog.text


def test_unknown_setting_is_named(tmp_path, caplog):
    assert main(["--settings", json.dumps({"sauce": "embedded"}), "--out", str(tmp_path / "t")]) == 1
    assert "did you mean source?" in caplog.text


@pytest.mark.slow
def test_embedded_template_is_complete_and_kept(tmp_path, capsys):
    assert main(["--source", "embedded", "--cache", str(tmp_path)]) == 0
    settings = TemplateConfig(source="embedded")
    folder = Path(template_folder(str(tmp_path), settings.model_dump(mode="json")))
    assert capsys.readouterr().out.strip() == str(folder)
    template = read_template(folder)
    assert len(template.landmarks.index) > 300
    assert template.regions["face"].sum() > 1000
    assert is_current(folder, settings)
    before = (folder / "template.npz").stat().st_mtime_ns
    assert main(["--source", "embedded", "--cache", str(tmp_path)]) == 0
    assert (folder / "template.npz").stat().st_mtime_ns == before
