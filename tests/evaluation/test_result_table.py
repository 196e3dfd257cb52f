"""Tables of fits: numbers that are known, failures that stay visible."""

import pytest

from nphm_core.evaluation.result_table import ResultRow, failure_list, result_tsv, summarise, summary_markdown

PLACE = "surface.face"


def row(model: str, subject: str, chamfer: float | None, failure: str = "") -> ResultRow:
    measures = {f"{PLACE}.chamfer_l1_mm": chamfer, f"{PLACE}.f_score_1mm": 0.5}
    return ResultRow({"model": model, "subject": subject}, {} if failure else measures, failure)


ROWS = [row("nphm", "a", 1.0), row("nphm", "b", 2.0), row("nphm", "c", 9.0), row("pca", "a", None)]
FAILED = [*ROWS, row("pca", "b", None, "the fit\nhas no mesh")]


def test_a_group_has_its_median_and_mean():
    nphm, pca = summarise(ROWS, ["model"], [f"{PLACE}.chamfer_l1_mm"])
    average = nphm.averages[f"{PLACE}.chamfer_l1_mm"]
    assert (nphm.labels, nphm.n_rows, nphm.n_failed) == (("nphm",), 3, 0)
    assert (average.n, average.median, average.mean) == (3, 2.0, pytest.approx(4.0))
    assert pca.averages[f"{PLACE}.chamfer_l1_mm"].median is None


def test_a_failed_fit_is_a_line_of_the_table():
    lines = result_tsv(FAILED).splitlines()
    assert lines[0].split("\t") == [
        "model", "subject", f"{PLACE}.chamfer_l1_mm", f"{PLACE}.f_score_1mm", "failure",
    ]  # fmt: skip
    assert lines[1].split("\t") == ["nphm", "a", "1.0000", "0.5000", ""]
    assert lines[4].split("\t") == ["pca", "a", "", "0.5000", ""]
    assert lines[5].split("\t") == ["pca", "b", "", "", "the fit has no mesh"]


def test_failures_are_counted_and_named():
    assert failure_list(FAILED) == "1 of 5 fits failed:\n- pca b: the fit has no mesh\n"
    assert failure_list(ROWS) == "all 4 fits were measured\n"
    assert [group.n_failed for group in summarise(FAILED, ["model"], [])] == [0, 1]


def test_the_summary_says_what_a_number_rests_on():
    text = summary_markdown(FAILED, ["model"], measures=("chamfer_l1_mm", "f_score_1mm"))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert lines[0] == ["model", "measured", "fits", "failed", "chamfer_l1_mm, median", "f_score_1mm, median"]
    assert lines[2] == ["nphm", PLACE, "3", "0", "2.0000", "0.5000"]
    assert lines[3] == ["pca", PLACE, "2", "1", "-", "0.5000 (of 1)"]
    assert len({len(line) for line in text.splitlines()}) == 1


def test_a_table_of_failures_only_is_still_a_table():
    rows = [row("pca", "b", None, "no mesh")]
    assert result_tsv(rows).splitlines()[1] == "pca\tb\tno mesh"
    assert "pca" in summary_markdown(rows, ["model"], statistic="mean")


def test_the_same_rows_give_the_same_bytes():
    assert result_tsv(FAILED) == result_tsv(list(FAILED))
    assert summary_markdown(FAILED, ["model"]) == summary_markdown(tuple(FAILED), ("model",))
