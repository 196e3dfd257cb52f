"""The command that builds a template."""

import json

import pytest

from nphm_core.config import TemplateConfig
from nphm_core.template.template import read_template
from pipelines.template import is_current, main, template_folder


def test_another_model_gets_another_folder(tmp_path):
    first = template_folder(tmp_path, TemplateConfig(source="embedded"))
    second = template_folder(tmp_path, TemplateConfig(source="models/flame2023.npz"))
    assert first.name.startswith("embedded-")
    assert second.name.startswith("flame2023-")
    assert first.name.split("-")[1] != second.name.split("-")[1]


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
    folder = template_folder(tmp_path, settings)
    assert capsys.readouterr().out.strip() == str(folder)
    template = read_template(folder)
    assert len(template.landmarks.index) > 300
    assert template.regions["face"].sum() > 1000
    assert is_current(folder, settings)
    before = (folder / "template.npz").stat().st_mtime_ns
    assert main(["--source", "embedded", "--cache", str(tmp_path)]) == 0
    assert (folder / "template.npz").stat().st_mtime_ns == before
