"""The verdict on one scan, from the records of its stages and the measures of its registration.

*ok*: use it. *suspicious*: there is a result, but something about it is not what was asked for; look at the picture.
*failed*: there is no result, or not of this scan. Every reason is a sentence with the number, the limit, and the
setting that moves the limit. Imported by the summary: standard library only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from nphm_core.stages import STAGES

if TYPE_CHECKING:
    from nphm_core.config import EvaluateConfig

Status = Literal["ok", "suspicious", "failed"]

DECIDING_STAGES = ("backproject", "flame_fit", "subdivide")
"""A warning of these says that the registration is not what was asked for; the others' are passed on only.

What `arap` warns of is measured here on the face alone."""


@dataclass(frozen=True)
class Verdict:
    """What is to be thought of a scan's result."""

    status: Status
    stage: str
    """Stage that failed or is to blame; empty for ok."""
    reasons: tuple[str, ...]
    """Sentences, the gravest first; empty for ok."""

    def to_json(self) -> dict[str, Any]:
        """Give plain values for a record; the warnings stay with the stages that gave them."""
        return {"verdict": self.status, "stage": self.stage, "reasons": list(self.reasons)}


def judge(
    records: Mapping[str, Mapping[str, Any]], measures: Mapping[str, Any] | None, settings: "EvaluateConfig"
) -> Verdict:
    """Judge a scan from its stages' records, and from its measures where there is a registration.

    `measures` is what `evaluate` writes to metrics.json: `surface` and, where there are landmarks, `landmarks`.
    """
    failure = first_failure(records)
    if failure is not None:
        return Verdict("failed", failure[0], (failure[1],))
    if measures is None:
        return Verdict("failed", "arap", ("no registered mesh exists, though no stage failed; run it again",))
    failed = _failing(measures, settings)
    doubts = [*_doubts(measures, settings), *_crossings(records, settings), *_deciding(records)]
    if failed:
        return Verdict("failed", "evaluate", (*failed, *doubts))
    if doubts:
        return Verdict("suspicious", "evaluate", tuple(doubts))
    return Verdict("ok", "", ())


def first_failure(records: Mapping[str, Mapping[str, Any]]) -> tuple[str, str] | None:
    """Give the stage that failed first, in the order of the work, and its reason; blocked ones name their blocker."""
    for name in STAGES:
        record = records.get(name)
        if record is None or record["status"] == "ok":
            continue
        if record["status"] == "failed":
            return name, str(record["reason"])
        blocker = record.get("blocked_by", name)
        return blocker, str(records.get(blocker, record).get("reason") or record["reason"])
    return None


def stage_warnings(records: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Give what the stages warned of, as `stage: text`, whether or not it decides."""
    return tuple(f"{name}: {text}" for name in STAGES for text in records.get(name, {}).get("warnings", ()))


def _deciding(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [text for name in DECIDING_STAGES for text in records.get(name, {}).get("warnings", ())]


def _failing(measures: Mapping[str, Any], settings: "EvaluateConfig") -> list[str]:
    face = measures["surface"]["regions"]["face"]
    median = face["distance"]["median_mm"]
    out = []
    if median is None:
        out.append(f"no vertex of the face follows the scan; expected at least {settings.failed_matched_share:.0%}")
    elif median > settings.failed_median_mm:
        out.append(
            f"the median distance on the face is {median:.2f} mm, above {settings.failed_median_mm:g} mm "
            "(evaluate.failed_median_mm): this is not a registration of this scan"
        )
    if face["matched_share"] < settings.failed_matched_share:
        out.append(
            f"{face['matched_share']:.0%} of the face lies on the scan, below {settings.failed_matched_share:.0%} "
            "(evaluate.failed_matched_share): the face is not in the scan, or the linear fit missed it"
        )
    return out


def _doubts(measures: Mapping[str, Any], settings: "EvaluateConfig") -> list[str]:
    surface = measures["surface"]
    face = surface["regions"]["face"]
    out = []
    for key, name, limit, setting in (
        ("median_mm", "median distance", settings.max_median_mm, "max_median_mm"),
        ("p95_mm", "95th percentile of the distance", settings.max_p95_mm, "max_p95_mm"),
    ):
        value = face["distance"][key]
        if value is not None and value > limit:
            out.append(f"the {name} on the face is {value:.2f} mm, above {limit:g} mm (evaluate.{setting})")
    if face["matched_share"] < settings.min_matched_share:
        out.append(
            f"{face['matched_share']:.0%} of the face lies on the scan, below {settings.min_matched_share:.0%} "
            "(evaluate.min_matched_share): hair or holes cover the rest, or arap gave up there"
        )
    covered = surface["covered_share"]
    if covered is not None and covered < settings.min_covered_share:
        out.append(
            f"{covered:.0%} of the scan's face is within 1 mm of the registration, below "
            f"{settings.min_covered_share:.0%} (evaluate.min_covered_share)"
        )
    if surface["folded_faces"] > settings.max_folded_faces:
        out.append(
            f"{surface['folded_faces']} triangles of the face are folded over, more than {settings.max_folded_faces} "
            "(evaluate.max_folded_faces); a larger arap.stiffness_end unfolds them"
        )
    return out + _landmark_doubts(measures.get("landmarks"), settings)


def _crossings(records: Mapping[str, Mapping[str, Any]], settings: "EvaluateConfig") -> list[str]:
    crossed = records.get("arap", {}).get("metrics", {}).get("n_crossed", 0)
    if crossed <= settings.max_crossed_vertices:
        return []
    text = (
        f"{crossed} vertices of lips or eyelids lie behind the opposite lip or lid, more than "
        f"{settings.max_crossed_vertices} (evaluate.max_crossed_vertices); look at mouth and eyes"
    )
    return [text]


def _landmark_doubts(landmarks: Mapping[str, Any] | None, settings: "EvaluateConfig") -> list[str]:
    if not landmarks or landmarks["median_mm"] is None or landmarks["median_mm"] <= settings.max_landmark_mm:
        return []
    text = (
        f"the landmarks found in the scan lie {landmarks['median_mm']:.1f} mm (median) from those of the registered "
        f"mesh, above {settings.max_landmark_mm:g} mm (evaluate.max_landmark_mm): the correspondence has slipped"
    )
    return [text]
