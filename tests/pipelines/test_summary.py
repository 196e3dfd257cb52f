"""The table of the data set and the report at a run's end."""

import csv
import json
import subprocess
import sys

import pytest

from nphm_core.records import write_record
from nphm_core.stages import STAGES
from pipelines import summary

TABLE = """subject\texpression\tneutral\tpath\tunit\texclude\treason
s01\tneutral\topen\ta.ply\tmm\t\t
s01\tsmile\t\tb.ply\tmm\t\t
s02\tneutral\tclosed\tc.ply\t\t\t
s02\tblur\t\td.ply\tm\tyes\tthe subject moved
s03\tneutral\topen\te.ply\t\t\t
"""


def _ok(**metrics):
    return {"status": "ok", "reason": "", "warnings": [], "metrics": metrics}


def _evaluated(verdict, stage="", reasons=(), **numbers):
    facts = {"verdict": verdict, "stage": stage, "reasons": list(reasons), "unit": "mm", "stage_warnings": []}
    return _ok(**facts | numbers)


@pytest.fixture
def results(tmp_path):
    """Results of four scans: ok, suspicious, failed early, and never finished."""
    folder = tmp_path / "results"
    (tmp_path / "scans.tsv").write_text(TABLE)
    for scan in ("s01/neutral", "s01/smile"):
        for name in STAGES:
            write_record(folder, scan, name, _ok())
    good = _evaluated("ok", median_mm=0.02, p95_mm=0.1, folded_faces=0, stage_warnings=["ingest: odd"])
    write_record(folder, "s01/neutral", "evaluate", good)
    bad = _evaluated("suspicious", "evaluate", ["the median\nis high", "so is p95"], median_mm=0.4, p95_mm=1.5)
    write_record(folder, "s01/smile", "evaluate", bad)
    write_record(folder, "s02/neutral", "ingest", _ok())
    write_record(folder, "s02/neutral", "render", {"status": "failed", "reason": "no face was found"})
    blocked = {"status": "blocked", "reason": "the stage render has no result", "blocked_by": "render"}
    write_record(folder, "s02/neutral", "landmarks", blocked)
    write_record(folder, "s02/neutral", "evaluate", _evaluated("failed", "render", ["no face was found"]))
    (folder / "scans/s02/neutral/quality.png").write_bytes(b"picture")
    write_record(folder, "s03/neutral", "ingest", _ok())
    return folder


def _run(results, monkeypatch, *more) -> int:
    base = ["summary", "--table", str(results.parent / "scans.tsv"), "--results", str(results)]
    monkeypatch.setattr(sys, "argv", [*base, "--out", str(results / "summary.tsv"), *more])
    return summary.main()


def _rows(results):
    with open(results / "summary.tsv", newline="") as file:
        return {row["scan"]: row for row in csv.DictReader(file, delimiter="\t")}


def test_every_scan_of_the_table_has_a_row(results, monkeypatch):
    assert _run(results, monkeypatch) == 0
    rows = _rows(results)
    assert list(rows) == ["s01/neutral", "s01/smile", "s02/neutral", "s03/neutral", "s02/blur"]
    assert rows["s01/neutral"] | {"warnings": ""} == rows["s01/neutral"] | {"verdict": "ok", "warnings": ""}
    assert rows["s01/neutral"]["median_mm"] == "0.02"
    assert rows["s01/neutral"]["warnings"] == "ingest: odd"
    assert rows["s01/smile"]["reason"] == "the median is high; so is p95"
    assert rows["s02/neutral"]["stage"] == "render"
    assert rows["s02/neutral"]["picture"].endswith("s02/neutral/quality.png")
    assert rows["s02/blur"]["verdict"] == "excluded"
    assert rows["s02/blur"]["reason"] == "the subject moved"


def test_a_scan_that_never_finished_counts_as_failed_and_says_where(results, monkeypatch):
    _run(results, monkeypatch)
    row = _rows(results)["s03/neutral"]
    assert (row["verdict"], row["stage"]) == ("failed", "render")
    assert "has not run" in row["reason"]


def test_the_report_names_stage_reason_and_picture_of_every_failure(results, monkeypatch, capsys):
    _run(results, monkeypatch)
    text = capsys.readouterr().out
    assert "4 scans: 1 ok, 1 suspicious, 2 failed, 1 excluded" in text
    assert "s02/neutral in render" in text
    assert "no face was found" in text
    assert str(results / "scans/s02/neutral/quality.png") in text
    assert "0.210 mm" in text  # the median of 0.02 and 0.4
    assert "without an open neutral, so without a canonical expression: s02" in text


def test_too_many_failures_are_an_error(results, monkeypatch, capsys):
    assert _run(results, monkeypatch, "--max-failed-share", "0.5") == 0
    assert _run(results, monkeypatch, "--max-failed-share", "0.4") == 1
    assert "max_failed_share" in capsys.readouterr().err
    assert (results / "summary.tsv").is_file()


def test_the_table_is_the_same_each_time(results, monkeypatch):
    _run(results, monkeypatch)
    first = (results / "summary.tsv").read_bytes()
    _run(results, monkeypatch)
    assert (results / "summary.tsv").read_bytes() == first
    assert b"\r" not in first


def test_a_missing_table_is_a_message_and_exit_one(results, monkeypatch, capsys):
    (results.parent / "scans.tsv").unlink()
    assert _run(results, monkeypatch) == 1
    assert "ScanTableError" in capsys.readouterr().err


def test_the_command_imports_nothing_heavy():
    code = "import sys, json, pipelines.summary; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert not {"numpy", "pydantic", "PIL", "numba", "scipy", "torch"} & set(modules)
