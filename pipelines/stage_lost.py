"""What becomes of a scan whose stage hung, crashed the interpreter, or was killed: see `pipelines.stage_watch`."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nphm_core.errors import CrashError, TimeLimitError
from nphm_core.records import read_trouble, scan_folder, write_record
from nphm_core.stages import Stage
from nphm_core.time_limit import time_limit_s
from pipelines.stage_command import log_verdict, new_record, remove_artifacts, remove_leftovers, stage_key
from pipelines.stage_trouble import alone, note_trouble
from pipelines.stage_watch import Lost

if TYPE_CHECKING:
    from nphm_core.config import Section

log = logging.getLogger("nphm")


def settle_lost(lost: Lost, stage: Stage, settings: "Section", options: argparse.Namespace) -> bool:
    """Give a scan that hung or crashed its verdict, and tell whether it has one.

    Of one that was killed from outside only what happened is told. If that happens twice to a scan that shares its
    job with others, it has failed for now, so that they get their verdicts; the next run tries it again.
    """
    results = Path(options.results)
    if lost.stage != stage.name:
        # Work ahead: the stage's own process will meet the same, and then it is a verdict.
        log.warning("%s: %s in %s, which is left to its own process", lost.scan_id, lost.what, lost.stage)
        return False
    outcome = _outcome(lost)
    if outcome is None:
        text = (
            f"{lost.what}; expected it to end by itself. Mostly the memory was not enough, or somebody stopped the "
            "run: run again, with fewer --cores or more memory"
        )
        if len(options.scans) > 1 and read_trouble(results, lost.scan_id, stage.name):
            outcome = _failed(text, MemoryError) | {"was_killed": True}
    if outcome is None:
        note_trouble(results, lost.scan_id, stage.name, text)
        return False
    with alone(results, lost.scan_id, stage.name):
        folder = scan_folder(results, lost.scan_id)
        remove_leftovers(stage, folder)
        remove_artifacts(stage, folder, keep=set())
        key, _ = stage_key(stage, lost.scan_id, settings.model_dump(mode="json"), options)
        record = new_record(stage, lost.scan_id, key, outcome)
        write_record(results, lost.scan_id, stage.name, record)
    log_verdict(record, 0.0)
    return True


def _outcome(lost: Lost) -> dict[str, Any] | None:
    """Give the verdict; None where it was not the scan's fault."""
    if lost.how == "time":
        reason = (
            f"{lost.what}; a stage was expected to end long before. The log says where it was: exclude the scan, or "
            "raise stage_timeout_s if the machine is that slow"
        )
        return _failed(reason, TimeLimitError) | {"time_limit_s": time_limit_s()}
    if lost.how == "crash":
        reason = f"{lost.what}, twice; expected a result or an error. Report it with the log, and exclude the scan"
        return _failed(reason, CrashError)
    return None


def _failed(reason: str, error: type[Exception]) -> dict[str, Any]:
    return {"status": "failed", "reason": reason, "error": error.__name__}
