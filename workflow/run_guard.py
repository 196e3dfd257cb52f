"""What watches over a run: one run at a time for a results folder, and an early end where nearly all scans fail.

Snakemake's own lock stays behind when it is killed, and then refuses the next start; the lock here ends with the
process that holds it, and is seen from other working directories and machines. The profiles switch Snakemake's off.
"""

import logging
import re
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from nphm_core.durable import hold_lock
from nphm_core.records import read_record, read_trouble
from nphm_core.stages import STAGES
from workflow.planning import Plan

_N_REASONS = 5


class RunGuard(logging.Handler):
    """Takes the results folder for this run, and follows the jobs' ends."""

    def __init__(self, plan: Plan, workflow: Any) -> None:
        super().__init__()
        self._settings, self._results, self._workflow = plan.settings, Path(plan.settings.results), workflow
        self._units = plan.units
        self._jobs: dict[int, list[str]] = {}
        self._failed: dict[str, tuple[str, str]] = {}
        self._decided: set[str] = set()
        self._has_stopped = False

    def start(self) -> None:
        """Begin; WorkflowError if another run has the folder or it cannot be written."""
        path = self._results / ".lock"
        try:
            self._lock = hold_lock(path, wait=False)
        except OSError as error:
            raise WorkflowError(
                f"the results folder cannot be written ({error.strerror}); expected to. Make it writable, or choose "
                f"another one with --config results=FOLDER. Folder {self._results}"
            ) from None
        if self._lock is None:
            raise WorkflowError(
                "the results folder is locked: another run is working on it; expected to be the only one. Wait for its "
                f"end, or stop it, then start again. Folder {self._results}"
            )
        dag = self._workflow.dag
        self._jobs = {dag.jobid(job): list(map(str, job.output)) for job in dag.needrun_jobs()}
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of a job that ended."""
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_FINISHED:
            self._note(self._jobs.get(getattr(record, "job_id", -1), []), has_result=True)
        elif event == LogEvent.JOB_ERROR:
            self._note(self._jobs.get(getattr(record, "jobid", -1), []), has_result=False)

    def _note(self, outputs: list[str], *, has_result: bool) -> None:
        for scan_id, stage in self._units.scans_of(outputs):
            if has_result:
                self._note_record(scan_id, stage)
            else:
                reason = read_trouble(self._results, scan_id, stage) or "its job ended with an error; see its log"
                self._failed.setdefault(scan_id, (stage, reason))
            if stage == "evaluate" or scan_id in self._failed:
                self._decided.add(scan_id)
        self._stop_if_hopeless()

    def _note_record(self, scan_id: str, stage: str) -> None:
        record = read_record(self._results, scan_id, stage)
        if record is None:
            return
        if record["status"] == "failed":
            self._failed.setdefault(scan_id, (stage, record.get("reason", "")))
        elif record["metrics"].get("verdict") == "failed":
            reasons = record["metrics"].get("reasons", [])
            self._failed.setdefault(scan_id, (record["metrics"].get("stage") or stage, "; ".join(reasons)))

    def _stop_if_hopeless(self) -> None:
        n_all, n_failed, settings = len(self._decided), len(self._failed), self._settings
        if self._has_stopped or n_all < settings.stop_after_scans or n_failed <= settings.stop_failed_share * n_all:
            return
        self._has_stopped = True
        logger.error(self.diagnosis())
        # As after SIGTERM: the running jobs may end, all scans are told of, and the exit code is an error. By a
        # thread, as Snakemake holds the lock that this needs while it tells of a job's end.
        threading.Thread(target=self._workflow.scheduler.exit_gracefully, daemon=True).start()

    def diagnosis(self) -> str:
        """Say how many scans failed so far, where, and for what reasons, the most frequent first."""
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        for scan_id, (stage, reason) in self._failed.items():
            groups[stage, _kind_of(reason)].append(scan_id)
        lines = [
            (
                f"The run stops early: {len(self._failed)} of the first {len(self._decided)} scans failed; expected "
                f"at most {self._settings.stop_failed_share:.0%} (stop_failed_share). Mostly that has one cause:"
            )
        ]
        order = Counter({group: len(scans) for group, scans in groups.items()}).most_common(_N_REASONS)
        for group, n_scans in order:
            first = groups[group][0]
            lines.append(f"  {n_scans} in {group[0]}, as {first}: {' '.join(self._failed[first][1].split())}")
        lines.append("Mend it and start again: what is made is kept. Or raise stop_failed_share to go on regardless.")
        return "\n".join(lines)


def _kind_of(reason: str) -> str:
    """Give a reason without what differs from scan to scan: numbers, and what comes after the first line."""
    return re.sub(r"\d+(\.\d+)?", "0", reason.splitlines()[0] if reason else "")[:120]


def stage_priority(stage: str) -> int:
    """Give a stage's priority: a scan is brought to its verdict before the next one begins, so that trouble shows."""
    return list(STAGES).index(stage)
