"""Go on with the next stages of a scan in the process that has made one: see `nphm_core.work_ahead`.

What is made ahead lies beside its hidden record; the record that Snakemake tracks is written by the stage's own
command, which finds it current. Only good results are kept: whatever goes wrong here is left to that command.
"""

import argparse
import logging
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from nphm_core.durable import hold_lock, release_lock
from nphm_core.errors import NphmError
from nphm_core.records import current_record, hidden_record, read_record, stage_lock, without_seen, write_hidden_record
from nphm_core.stages import STAGES, Stage
from nphm_core.work_ahead import AheadPlan, ahead_plan, is_forced
from pipelines.stage_command import Records, attempt, log_verdict, new_record, options_logs, related_scan, stage_key
from pipelines.stage_logs import own_log
from pipelines.stage_watch import Tell, nobody

log = logging.getLogger("nphm")


def work_ahead(
    stage: Stage, scan_id: str, options: argparse.Namespace, made: Records | None = None, tell: Tell = nobody
) -> None:
    """Make what follows a stage, as far as this scan's and its relatives' results allow and the environment asks.

    `made` holds what this process has made ahead so far, of all scans, and gets what is made now. `tell` is told of
    each stage that begins.
    """
    plan = ahead_plan()
    if plan is None:
        return
    made = {} if made is None else made
    names = list(STAGES)
    for name in names[names.index(stage.name) + 1 :]:
        tell(scan_id, name)
        # What a user forces is left to the stage's own process: made ahead, it would be made twice.
        record = None if is_forced(name) else _made(STAGES[name], scan_id, plan, options, made)
        if record is None:
            return
        made[scan_id, name] = record


def _made(
    stage: Stage, scan_id: str, plan: AheadPlan, command: argparse.Namespace, made: Records
) -> dict[str, Any] | None:
    """Give a stage's good record, made now if need be; None if that is not for this process to do."""
    if (scan_id, stage.name) in made:
        return made[scan_id, stage.name]
    results = Path(command.results)
    if not _is_ready(stage, scan_id, results, made):
        return None
    lock = stage_lock(results, scan_id, stage.name)
    try:
        handle = hold_lock(lock, wait=False)
    except OSError:
        return None
    if handle is None:
        # Its own process is at it.
        return None
    try:
        return _made_alone(stage, scan_id, plan, command, made)
    finally:
        release_lock(lock, handle)


def _made_alone(
    stage: Stage, scan_id: str, plan: AheadPlan, command: argparse.Namespace, made: Records
) -> dict[str, Any] | None:
    results = Path(command.results)
    options = argparse.Namespace(results=str(results), seed=plan.seed, template=plan.template)
    settings = plan.settings[stage.name]
    started = time.process_time()
    try:
        key, blocked_by = stage_key(stage, scan_id, settings, options, made)
        if blocked_by:
            return None
        record = current_record(results, scan_id, stage.name, key)
        if record is not None:
            return record if record["status"] == "ok" else None
        with own_log(options_logs(command), stage.name, scan_id):
            record = new_record(stage, scan_id, key, _attempted(stage, scan_id, settings, options, made))
            if options_logs(command):
                log_verdict(record, time.process_time() - started)
        if record["status"] != "ok" or stage_key(stage, scan_id, settings, options, made)[0] != key:
            # A relative was made anew meanwhile: the result may be of either.
            return None
    except (NphmError, OSError, MemoryError, ImportError) as error:
        # The stage's own environment may hold what this one lacks, and its own limits what this one must keep to.
        log.info("%s: %s is left to its own process (%s)", scan_id, stage.name, error)
        return None
    write_hidden_record(results, scan_id, stage.name, record)
    log.info("%s: made %s ahead, %.2f CPU seconds", scan_id, stage.name, time.process_time() - started)
    return record


def _attempted(stage: Stage, scan_id: str, settings: Any, options: argparse.Namespace, made: Records) -> dict[str, Any]:
    from nphm_core.config import Config, read_section

    module = import_module(f"pipelines.{stage.name}")
    section: Any = Config.model_fields[stage.name].annotation
    return attempt(stage, module.process, scan_id, read_section(section, dict(settings), stage.name), options, made)


def _is_ready(stage: Stage, scan_id: str, results: Path, made: Records) -> bool:
    """Tell whether all that a stage needs is there and is no leftover of an earlier run."""
    needed = [(scan_id, name) for name in stage.needs]
    for role, names in (("identity", stage.needs_identity), ("canonical", stage.needs_canonical)):
        other = related_scan(results, scan_id, role) if names else None
        needed += [(other, name) for name in names] if other else []
    # Snakemake removes a record before its job runs, and one that was made ahead is newer than the tracked one.
    records = [(read_record(results, *place), hidden_record(results, *place)) for place in needed if place not in made]
    return all(
        record is not None and hidden is not None and record == without_seen(hidden) for record, hidden in records
    )
