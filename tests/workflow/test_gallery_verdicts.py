"""What a person rejects in the browser is left out of the next run, and nothing else is made again."""

import csv
import re
import shutil
from pathlib import Path

import pytest

from nphm_core.stages import STAGES
from tests.browser import chromium, page_of
from tests.workflow.runs import of_scan
from tests.workflow.test_what_runs_when import Clone

pytestmark = pytest.mark.slow

SCANS = {f"{subject}/{name}": neutral for subject in "AB" for name, neutral in
         (("rest", "closed"), ("open", "open"), ("smile", ""))}  # fmt: skip
# The real gallery, but for the stand-in's template, which has no triangles.
REPORT_COMMAND = """
import sys

from pipelines import gallery_command

at = sys.argv.index("--template")
del sys.argv[at : at + 2]
sys.exit(gallery_command.main())
"""
TRAIN_COMMAND = """
import sys
from pathlib import Path

folder = Path(sys.argv[sys.argv.index("--out") + 1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.json").write_text(Path(sys.argv[sys.argv.index("--training-set") + 1]).read_text())
"""
TARGETS = ("--", "all", "model")
VERDICTS = "verdicts: verdicts.tsv\n"


@pytest.fixture(scope="module")
def clone(repository, tmp_path_factory):
    """Two subjects with three scans each, through stand-in stages, training and the real gallery."""
    clone = Clone(repository, tmp_path_factory.mktemp("judged"))
    commands = clone.folder / "pipelines"
    for name in ("training_set", "methods", "model_report", "report_pages"):
        shutil.copy(repository / "pipelines" / f"{name}.py", commands)
    shutil.copy(repository / "pipelines" / "report.py", commands / "gallery_command.py")
    (commands / "report.py").write_text(REPORT_COMMAND)
    for name in ("train_identity", "train_expression"):
        (commands / f"{name}.py").write_text(TRAIN_COMMAND)
    rows = [(*scan.split("/"), neutral, f"{scan.replace('/', '-')}.ply") for scan, neutral in SCANS.items()]
    (clone.folder / "scans.tsv").write_text("\n".join("\t".join(row) for row in
                                            [("subject", "expression", "neutral", "path"), *rows]) + "\n")  # fmt: skip
    for *_, path in rows:
        (clone.folder / path).write_text("a face")
    clone.snakemake(*TARGETS)
    return clone


def planned(clone) -> tuple[set[str], set[str]]:
    """Give the stages of scans and the other commands that the next run would start."""
    output = clone.snakemake("--dry-run", "--printshellcmds", *TARGETS)
    of_scans = {f"{m[1]} {m[2]}" for m in re.finditer(r"python -m pipelines (\w+) .* ([\w-]+/[\w-]+) > ", output)}
    return of_scans, set(re.findall(r"python -m pipelines\.(\w+)", output))


def rejected_by_keyboard(folder: Path, saved: Path) -> None:
    with chromium() as browser, page_of(browser, folder) as page:
        page.open("index.html", "#cards .card")
        keys = page.page.keyboard
        for key in ("ArrowRight", "ArrowRight", "ArrowRight", "x", "ArrowRight", "ArrowRight", "x", "n"):
            keys.press(key)
        keys.type("the eyes are open")
        keys.press("Enter")
        with page.page.expect_download() as download:
            page.page.click("#download")
        download.value.save_as(saved)
        assert page.troubles == []


def test_rejected_scans_and_only_what_depends_on_them_are_made_again(clone):
    assert planned(clone) == (set(), set())
    saved = clone.folder / "verdicts.tsv"
    rejected_by_keyboard(clone.folder / "results" / "report", saved)
    assert [line.split("\t")[:3] for line in saved.read_text().splitlines()[1:]] == [
        ["A/smile", "rejected", ""],
        ["B/rest", "rejected", "the eyes are open"],
    ]
    clone.set_config(VERDICTS)
    plan = clone.snakemake("--dry-run", *TARGETS)
    assert "all stages of 2 scans" in plan
    assert "rejected by hand: the eyes are open: B/rest" in plan
    of_scans, others = planned(clone)
    # B's identity came from the rejected neutral; nothing of A came from A's smile.
    assert of_scans == of_scan("B/open", *STAGES) | of_scan("B/smile", *STAGES)
    assert others == {"summary", "report", "training_set", "train_identity", "train_expression"}
    clone.snakemake(*TARGETS)
    assert planned(clone) == (set(), set())
    trained = (clone.folder / "results/models/nphm/head/config.json").read_text()
    assert "\nA\topen\ttrain" in trained
    assert "\tsmile\t" not in trained[: trained.index("\nB\t")]
    with (clone.folder / "results" / "summary.tsv").open(newline="") as stream:
        told = {row["scan"]: (row["verdict"], row["reason"]) for row in csv.DictReader(stream, delimiter="\t")}
    assert told["B/rest"] == ("excluded", "rejected by hand: the eyes are open")
    assert told["A/smile"] == ("excluded", "rejected by hand")


def test_a_verdict_that_is_taken_back_brings_the_scan_back(clone):
    (clone.folder / "verdicts.tsv").write_text("scan\tverdict\nB/rest\trejected\nA/smile\trejected\n")
    clone.set_config(VERDICTS)
    clone.snakemake(*TARGETS)
    (clone.folder / "verdicts.tsv").write_text("scan\tverdict\nB/rest\trejected\nA/smile\taccepted\n")
    of_scans, others = planned(clone)
    assert of_scans == set()
    assert {"summary", "report", "training_set"} <= others


def test_an_unknown_scan_in_the_verdicts_is_named(clone):
    (clone.folder / "verdicts.tsv").write_text("scan\tverdict\nA/smiel\trejected\n")
    clone.set_config(VERDICTS)
    assert "Did you mean A/smile?" in clone.snakemake("--dry-run", fails=True)


def test_snakemakes_own_report_has_the_tables_the_curves_and_the_methods(clone):
    clone.set_config("")
    clone.snakemake("--", "write_up")
    clone.snakemake("--report", "report.html", "--", "all", "model", "write_up")
    text = (clone.folder / "report.html").read_text()
    pages = [f"pages/{name}.html" for name in ("summary", "training_set", "methods", "curves", "fits")]
    for name in ("summary.tsv", "training_set.tsv", "methods.md", *pages):
        assert name in text
    assert "A row for each scan" in text, "captions are part of it"
    assert [stage for stage in STAGES if f'"{stage}"' not in text] == [], "stages that are done are in it, too"
    assert "sorkine2007arap" in (clone.folder / "results" / "methods.bib").read_text()
