"""Verdicts from records and measures."""

import copy

import pytest

from nphm_core.config import EvaluateConfig
from nphm_core.evaluation.verdict import first_failure, judge, stage_warnings
from nphm_core.stages import STAGES

SETTINGS = EvaluateConfig()
GOOD = {
    "surface": {
        "regions": {"face": {"distance": {"median_mm": 0.03, "p95_mm": 0.2}, "matched_share": 0.95}},
        "covered_share": 0.99,
        "folded_faces": 0,
    },
    "landmarks": {"median_mm": 2.0},
}


def _records(**changes):
    records = {name: {"status": "ok", "reason": "", "warnings": []} for name in STAGES if name != "evaluate"}
    return records | changes


def _measures(path: str, value):
    out = copy.deepcopy(GOOD)
    *parts, last = path.split(".")
    target = out
    for part in parts:
        target = target[part]
    target[last] = value
    return out


def test_a_good_scan_is_ok_without_reasons():
    verdict = judge(_records(), GOOD, SETTINGS)
    assert verdict.to_json() == {"verdict": "ok", "stage": "", "reasons": []}


def test_a_failed_stage_is_the_verdict_whatever_came_after():
    records = _records(
        landmarks={"status": "failed", "reason": "no face was found"},
        arap={"status": "blocked", "reason": "the stage landmarks has no result", "blocked_by": "landmarks"},
    )
    verdict = judge(records, None, SETTINGS)
    assert (verdict.status, verdict.stage, verdict.reasons) == ("failed", "landmarks", ("no face was found",))


def test_a_failure_after_the_registration_fails_the_scan_as_well():
    records = _records(sample_sdf={"status": "failed", "reason": "nothing to sample"})
    assert judge(records, GOOD, SETTINGS).stage == "sample_sdf"


def test_a_blocked_stage_names_what_blocked_it():
    records = {
        "ingest": {"status": "failed", "reason": "the file is empty"},
        "render": {"status": "blocked", "reason": "the stage ingest has no result", "blocked_by": "ingest"},
    }
    assert first_failure({"render": records["render"], "ingest": records["ingest"]}) == ("ingest", "the file is empty")
    assert first_failure({"render": records["render"]}) == ("ingest", "the stage ingest has no result")
    assert first_failure(_records()) is None


@pytest.mark.parametrize(
    ("path", "value", "status", "setting"),
    [
        ("surface.regions.face.distance.median_mm", 0.31, "suspicious", "evaluate.max_median_mm"),
        ("surface.regions.face.distance.p95_mm", 1.4, "suspicious", "evaluate.max_p95_mm"),
        ("surface.regions.face.distance.median_mm", 2.5, "failed", "evaluate.failed_median_mm"),
        ("surface.regions.face.matched_share", 0.5, "suspicious", "evaluate.min_matched_share"),
        ("surface.regions.face.matched_share", 0.1, "failed", "evaluate.failed_matched_share"),
        ("surface.covered_share", 0.6, "suspicious", "evaluate.min_covered_share"),
        ("surface.folded_faces", 99, "suspicious", "evaluate.max_folded_faces"),
        ("landmarks.median_mm", 9.0, "suspicious", "evaluate.max_landmark_mm"),
    ],
)
def test_each_limit_gives_a_reason_with_its_setting(path, value, status, setting):
    verdict = judge(_records(), _measures(path, value), SETTINGS)
    assert verdict.status == status
    assert setting in verdict.reasons[0]


def test_a_face_that_nothing_was_measured_on_has_failed():
    verdict = judge(_records(), _measures("surface.regions.face.distance.median_mm", None), SETTINGS)
    assert verdict.status == "failed"
    assert verdict.stage == "evaluate"


def test_only_warnings_about_the_registration_make_a_scan_suspicious():
    ingest = _records(ingest={"status": "ok", "reason": "", "warnings": ["the unit was guessed"]})
    assert judge(ingest, GOOD, SETTINGS).status == "ok"
    assert stage_warnings(ingest) == ("ingest: the unit was guessed",)
    fit = _records(flame_fit={"status": "ok", "reason": "", "warnings": ["the identity is its own"]})
    assert judge(fit, GOOD, SETTINGS).reasons == ("the identity is its own",)


def test_missing_landmarks_and_coverage_are_no_reason():
    measures = copy.deepcopy(GOOD) | {"landmarks": None}
    measures["surface"]["covered_share"] = None
    assert judge(_records(), measures, SETTINGS).status == "ok"


def test_lips_that_cross_are_suspicious():
    crossed = _records(arap={"status": "ok", "reason": "", "warnings": ["seen"], "metrics": {"n_crossed": 400}})
    verdict = judge(crossed, GOOD, SETTINGS)
    assert verdict.status == "suspicious"
    assert "evaluate.max_crossed_vertices" in verdict.reasons[0]
    few = _records(arap={"status": "ok", "reason": "", "warnings": ["seen"], "metrics": {"n_crossed": 3}})
    assert judge(few, GOOD, SETTINGS).status == "ok"
