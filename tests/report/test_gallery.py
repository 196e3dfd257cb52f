"""The gallery's data: the worst first, kinds of reasons, outliers, and bounded files."""

import json
import os
import re
import sys

import numpy as np
import pytest

from nphm_core.report.distributions import StageNumber, distribution, numbers_of, stage_numbers
from nphm_core.report.gallery import PICTURES, Gallery, reason_kind, worst_first, write_gallery
from nphm_core.report.quality_tiles import CARD_BYTES, RegistrationTiles, card_of
from pipelines import report
from tests.report.gallery_results import ball, bare_scan, scan_ids_of, write_scan, write_table


def test_the_worst_come_first():
    scans = [
        bare_scan("a/1", "ok", p95_mm=0.2),
        bare_scan("a/2", "excluded"),
        bare_scan("a/3", "suspicious", p95_mm=1.1, reasons=("one",)),
        bare_scan("a/4", "ok", p95_mm=0.9),
        bare_scan("a/5", "failed", reasons=("no face",)),
        bare_scan("a/6", "suspicious", p95_mm=1.0, reasons=("one", "two")),
    ]
    assert [scan.scan_id[-1] for scan in worst_first(scans)] == ["5", "6", "3", "4", "1", "2"]


def test_reasons_that_differ_in_numbers_only_are_of_one_kind():
    texts = [
        f"the median distance on the face is {value} mm, above 0.2 mm (evaluate.max_median_mm)"
        for value in ("0.31", "12", "1,234.5")
    ]
    kinds = {reason_kind(text) for text in texts}
    assert kinds == {"the median distance on the face is … mm, above … mm (evaluate.max_median_mm)"}
    assert reason_kind("no face was found in any view; expected one. Turn it") == "no face was found in any view"


def test_numbers_of_inner_mappings_are_named_by_both_and_flags_are_none():
    metrics = {"a": 1, "b": {"c": 2.5, "is": True}, "text": "x", "row": {"mm_per_unit": 3}, "none": None}
    assert numbers_of(metrics) == {"a": 1.0, "b.c": 2.5}


def test_a_number_that_never_differs_is_left():
    records = {"arap": [{"metrics": {"levels": 2, "moved_mm": value}} for value in (0.1, 0.2)]}
    assert [number.key for number in stage_numbers(records)] == ["arap.moved_mm"]


def test_far_out_is_what_lies_three_widths_beyond_the_middle_half():
    # Quartiles of these are 25.5 and 76.5: the upper fence lies at 229.5.
    values = np.array([*range(101), 229.0, 230.0, np.nan])
    ids = [f"s/{k}" for k in range(len(values))]
    found = distribution(StageNumber("arap", "moved_mm", values), ids)
    assert found["far"] == [["s/102", 230.0]]
    assert found["n"] == 103
    assert sum(found["bins"]) == 103
    assert found["far_bins"][-1] == 0, "the last bar has a scan that is not far out, too"
    assert (found["label"], found["unit"]) == ("moved", "mm")


def test_a_card_keeps_to_its_size_even_for_noise():
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (384, 307, 3)).astype(np.uint8) for _ in range(11)]
    assert len(card_of(RegistrationTiles(noise[:5], noise[5:10], noise[10], True, False))) <= CARD_BYTES


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """Three subjects with four expressions; one scan failed, two are suspicious, one was rejected."""
    folder = tmp_path_factory.mktemp("gallery")
    rng, head = np.random.default_rng(0), ball()
    ids = scan_ids_of(3, 4)
    for k, scan_id in enumerate(ids):
        write_scan(folder / "results", scan_id, rng, head, None if k == 5 else 0.1 + 0.11 * k)
    write_table(folder / "scans.tsv", ids)
    (folder / "verdicts.tsv").write_text("scan\tverdict\tnote\tresult\ns001/smile\trejected\tblurred\tx\n")
    return folder


def _build(folder, monkeypatch, *more) -> int:
    command = ["report", "--table", str(folder / "scans.tsv"), "--results", str(folder / "results")]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(folder / "results" / "report"), *more])
    return report.main()


def _calls(path) -> list:
    return json.loads(f"[{re.fullmatch(r'nphm[.][A-Za-z0-9]+[(](.*)[)];', path.read_text().strip())[1]}]")


def test_the_command_writes_what_the_page_loads(gallery, monkeypatch, capsys):
    assert _build(gallery, monkeypatch, "--verdicts", str(gallery / "verdicts.tsv")) == 0
    assert "12 scans" in capsys.readouterr().out
    folder = gallery / "results" / "report"
    (index,), (rows,) = _calls(folder / "data/index.js"), _calls(folder / "data/rows-0.js")
    assert index["counts"] == {"failed": 1, "suspicious": 3, "ok": 7, "excluded": 1}
    assert (rows[0][0], rows[0][1], rows[0][2]) == ("s002/mouth-open", "failed", "landmarks")
    assert (rows[-1][0], rows[-1][3]) == ("s001/smile", "rejected by hand: blurred")
    assert index["verdicts"]["s001/smile"]["verdict"] == "rejected"
    name, scans = _calls(folder / "data/subjects/s003.js")
    assert name == "s003"
    assert scans["frown"]["regions"][1][0] == "left ear"
    for path in re.findall(r'(?:src|href)="((?:assets|data)/[^"]+)"', (folder / "index.html").read_text()):
        assert (folder / path).is_file()


def test_no_page_names_anything_on_a_network(gallery, monkeypatch):
    _build(gallery, monkeypatch)
    for path in (gallery / "results" / "report").rglob("*"):
        if path.suffix in (".html", ".css", ".js") and "scans" not in path.parts:
            addresses = set(re.findall(r"https?://[^\s\"'`)]+", path.read_text()))
            assert addresses <= {"http://www.w3.org/2000/svg"}


def test_pictures_are_copied_once_and_the_scan_s_own_files_are_not_touched(gallery, monkeypatch):
    originals = [gallery / "results/scans/s001/neutral" / name for name in PICTURES]
    copies = [gallery / "results/report/scans/s001/neutral" / name for name in PICTURES]
    before = [path.stat() for path in originals]
    _build(gallery, monkeypatch)
    first = [path.stat().st_ino for path in copies]
    _build(gallery, monkeypatch)
    assert [path.stat().st_ino for path in copies] == first
    assert [path.read_bytes() for path in copies] == [path.read_bytes() for path in originals]
    for path, status in zip(originals, before, strict=True):
        assert (path.stat().st_ctime_ns, path.stat().st_nlink) == (status.st_ctime_ns, status.st_nlink)


def test_links_of_an_older_gallery_are_replaced_by_copies(gallery, monkeypatch):
    _build(gallery, monkeypatch)
    original, copy = (
        gallery / "results" / p / "s001/neutral" / next(iter(PICTURES)) for p in ("scans", "report/scans")
    )
    copy.unlink()
    os.link(original, copy)
    _build(gallery, monkeypatch)
    assert copy.stat().st_ino != original.stat().st_ino
    assert original.stat().st_nlink == 1


def test_a_gallery_replaces_the_one_before(gallery, monkeypatch):
    stale = gallery / "results" / "report" / "data" / "subjects" / "gone.js"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.write_text("")
    _build(gallery, monkeypatch)
    assert not stale.exists()
    assert [path.name for path in (gallery / "results").iterdir() if path.name.startswith(".report")] == []


def test_many_scans_come_in_chunks(tmp_path):
    scans = [bare_scan(f"s{k:04d}/smile", "ok", p95_mm=k / 1000, folder=tmp_path / "none") for k in range(2300)]
    write_gallery(tmp_path / "report", Gallery("many", "id", scans, ("evaluate",), {}, None, 0.5))
    sizes = [len(_calls(tmp_path / f"report/data/rows-{k}.js")[0]) for k in range(3)]
    assert sizes == [1000, 1000, 300]
    assert _calls(tmp_path / "report/data/rows-0.js")[0][0][0] == "s2299/smile"
