"""The methods of a run in words, its references, and the drawings of its models."""

import json
import sys
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from nphm_core.config import Config
from nphm_core.report.curves import training_curves
from pipelines import methods, model_report, report_pages


def _row(scan, verdict, median="", p95=""):
    return {"scan": scan, "verdict": verdict, "median_mm": median, "p95_mm": p95}


ROWS = [_row("a/x", "ok", "0.1", "0.4"), _row("a/y", "suspicious", "0.3", "0.8"), _row("b/x", "failed"),
        _row("c/x", "excluded")]  # fmt: skip


def test_the_methods_have_this_runs_numbers_and_settings():
    settings = Config(held_out=("b",)).model_dump(mode="json")
    text = methods.methods_text(ROWS, settings)
    assert "3 scans of 2 subjects were processed (1 others excluded)" in text
    assert "1 passed all checks, 1 were flagged and 1 failed" in text
    assert "0.200 mm (median over 2 scans; 95th percentile 0.600 mm)" in text
    assert f"falling from {settings['arap']['stiffness_start']:g} to {settings['arap']['stiffness_end']:g}" in text
    assert "The subjects b were held out" in text
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in text


@pytest.mark.parametrize(("source", "cites"), [("embedded", False), ("models/flame2023.pkl", True)])
def test_only_what_is_cited_is_referenced(source, cites):
    text = methods.methods_text(ROWS, Config(template={"source": source}).model_dump(mode="json"))
    references = methods.references_text(text)
    assert ("li2017flame" in references) == cites
    assert "giebenhain2023nphm" in references
    assert references.count("{") == references.count("}")


def test_curves_fall_where_losses_fall():
    entries = [
        {"stage": "identity", "step": step, "terms": {"total": 10.0 ** (-step / 100)}} for step in (100, 200, 300)
    ]
    entries[-1]["validation"] = {"total": 0.5}
    drawing = ET.fromstring(training_curves({"nphm, identity": entries}))
    lines = drawing.findall(".//{http://www.w3.org/2000/svg}polyline")
    heights = [float(point.split(",")[1]) for point in lines[0].get("points").split()]
    assert heights == sorted(heights), "down the page is a smaller loss"
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2), "a logarithmic scale"
    assert len(lines) == 2


def test_the_command_draws_what_there_is(tmp_path, monkeypatch):
    journal = tmp_path / "models" / "nphm" / "identity" / "train.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text(json.dumps({"stage": "identity", "step": 5, "terms": {"total": 1.5}}) + "\n")
    picture = tmp_path / "fits" / "nphm" / "b" / "x" / "fit.png"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (300, 200), "navy").save(picture)
    words = ["model_report", "--results", str(tmp_path), "--models", "nphm", "pca"]
    monkeypatch.setattr(sys, "argv", [*words, "--curves", str(tmp_path / "c.svg"), "--fits", str(tmp_path / "f.jpg")])
    assert model_report.main() == 0
    assert "nphm, identity" in (tmp_path / "c.svg").read_text()
    with Image.open(tmp_path / "f.jpg") as sheet:
        assert sheet.size == (900, 640), "a line with the model's name, and the picture as wide as the sheet"
        assert sheet.getpixel((450, 300))[2] > 100


def test_the_fits_of_all_models_to_a_scan_stand_together(tmp_path):
    for place in ("pca/b/x", "pca/a/y", "nphm/b/x", "nphm/a/y", "npm/a/y"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "fit.png").touch()
    listed = model_report.fits_by_scan(tmp_path, ["nphm", "pca"])
    places = [(name, path.relative_to(tmp_path).parent.as_posix()) for name, path in listed]
    assert places == [("nphm", "nphm/a/y"), ("pca", "pca/a/y"), ("nphm", "nphm/b/x"), ("pca", "pca/b/x")]


def test_tables_and_texts_become_pages_of_their_names(tmp_path, monkeypatch):
    (tmp_path / "training_set.tsv").write_text("subject\trole\ns001\ttrain\n")
    (tmp_path / "methods.md").write_text("# Methods\n\nAll of it.\n")
    (tmp_path / "curves.svg").write_text("<svg/>")
    words = ["report_pages", *(str(tmp_path / name) for name in ("training_set.tsv", "methods.md", "curves.svg"))]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path / "pages")])
    assert report_pages.main() == 0
    table = (tmp_path / "pages" / "training_set.html").read_text()
    assert "<td class=short>s001</td><td class=short>train</td>" in table
    assert "<p>All of it.</p>" in (tmp_path / "pages" / "methods.html").read_text()
    assert "data:image/svg+xml;base64,PHN2Zy8+" in (tmp_path / "pages" / "curves.html").read_text()
