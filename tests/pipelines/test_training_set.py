"""Which scans are trained on."""

from pathlib import Path

import pytest

from nphm_core.errors import TrainingError
from nphm_core.io.scan_table import read_scan_table
from nphm_core.io.training_set import chosen, read_training_set, write_training_set
from nphm_core.records import write_record
from pipelines.training_set import training_rows

STAGES = {
    "arap": {"registered.ply": {"bytes": 1, "sha256": "a" * 64}},
    "sample_sdf": {"samples_sdf.safetensors": {"bytes": 1, "sha256": "b" * 64}},
    "sample_delta": {"samples_delta.safetensors": {"bytes": 1, "sha256": "c" * 64}},
    "evaluate": {},
}


def _run(results: Path, scan_id: str, *, failed: str = "", verdict: str = "ok") -> None:
    for stage, artifacts in STAGES.items():
        metrics = {"verdict": verdict, "stage": "evaluate", "reasons": ["too far"]} if stage == "evaluate" else {}
        record = {"status": "ok", "reason": "", "artifacts": artifacts, "metrics": metrics}
        if stage == failed:
            record |= {"status": "failed", "reason": "no\tface", "artifacts": {}}
        write_record(results, scan_id, stage, record)


@pytest.fixture
def results(tmp_path) -> Path:
    lines = ["subject\texpression\tneutral\tpath"]
    lines += [f"{s}\t{e}\t{'open' if e == 'open' else ''}\t{s}{e}.ply" for s in "abcd" for e in ("open", "smile")]
    (tmp_path / "scans.tsv").write_text("\n".join(lines) + "\n")
    for subject in "abcd":
        _run(tmp_path, f"{subject}/open", failed="sample_sdf" if subject == "b" else "")
        _run(tmp_path, f"{subject}/smile", verdict="failed" if subject == "c" else "ok")
    return tmp_path


def test_scans_get_their_roles_and_the_left_out_ones_a_reason(results):
    rows = {r.scan_id: r for r in training_rows(read_scan_table(results / "scans.tsv"), results, "open", ("d",))}
    assert {key: row.role for key, row in rows.items()} == {
        "a/open": "train", "a/smile": "train", "b/open": "left-out", "b/smile": "left-out", "c/open": "train",
        "c/smile": "left-out", "d/open": "held-out", "d/smile": "held-out",
    }  # fmt: skip
    assert "sample_sdf" in rows["b/open"].reason
    assert "b/open" in rows["b/smile"].reason
    assert "too far" in rows["c/smile"].reason
    assert rows["a/open"].canonical
    assert not rows["a/smile"].canonical


def test_the_table_is_read_back_the_same_and_has_the_same_bytes(results, tmp_path):
    rows = training_rows(read_scan_table(results / "scans.tsv"), results, "open", ())
    for name in ("one.tsv", "two.tsv"):
        write_training_set(tmp_path / name, rows)
    assert (tmp_path / "one.tsv").read_bytes() == (tmp_path / "two.tsv").read_bytes()
    again = read_training_set(tmp_path / "one.tsv")
    assert [row.scan_id for row in again] == [row.scan_id for row in rows]
    assert [row.scan_id for row in chosen(again, "train", canonical=True)] == ["a/open", "c/open", "d/open"]


def test_an_unknown_held_out_subject_is_an_error(results):
    with pytest.raises(TrainingError, match="held_out"):
        training_rows(read_scan_table(results / "scans.tsv"), results, "open", ("nobody",))


def test_something_else_is_no_training_set(tmp_path):
    (tmp_path / "x.tsv").write_text("subject\tage\nA\t3\n")
    with pytest.raises(TrainingError, match="training set cannot be read"):
        read_training_set(tmp_path / "x.tsv")
