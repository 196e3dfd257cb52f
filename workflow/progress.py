"""What a run will do, in words, before it starts; how many scans are done, failed and left, while it goes on.

A handler on Snakemake's own log, so that it is there without an option, in dry runs as well. Of the logger plugins that
exist none counts scans: they count jobs, of which a scan has eleven.
"""

import json
import logging
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TextIO

from nphm_core.stages import STAGES, record_path
from workflow.forecast import Forecast, duration_text

_TERMINAL_INTERVAL_S = 10.0
_FILE_INTERVAL_S = 60.0
_LAST_STAGE = "evaluate"
_DRY_RUN_END = "This was a dry-run"


class Progress(logging.Handler):
    """Listens to Snakemake's events; tells a person what they come to."""

    def __init__(
        self,
        forecast: Forecast,
        *,
        is_dry_run: Callable[[], bool],
        is_quiet: Callable[[], bool],
        record_of: Callable[[str], Path],
        scans_of: Callable[[str, str], Collection[str]] = lambda stage, scan_id: (scan_id,),
        n_scans: Callable[[str, int], int] = lambda stage, n_jobs: n_jobs,
        stream: TextIO = sys.stderr,
        clock: Callable[[], float] = time.time,
        interval_s: float | None = None,
    ) -> None:
        super().__init__()
        self._forecast, self._is_dry_run, self._is_quiet, self._record_of = forecast, is_dry_run, is_quiet, record_of
        self._stream, self._clock, self._scans_of, self._n_scans = stream, clock, scans_of, n_scans
        self._interval_s = interval_s or (_TERMINAL_INTERVAL_S if stream.isatty() else _FILE_INTERVAL_S)
        self._planned: Counter[str] = Counter()
        self._finished: Counter[str] = Counter()
        self._jobs: dict[int, tuple[str, Mapping[str, str]]] = {}
        self._started: dict[int, float] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._n_jobs = self._n_jobs_done = self._n_failed = self._n_errors = 0
        self._begin = self._told = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Take one event of Snakemake's."""
        event = str(getattr(record, "event", "") or "")
        if event == "run_info":
            self._plan(record)
        elif event == "job_info":
            self._jobs[record.jobid] = (record.rule_name, record.wildcards or {})  # type: ignore[attr-defined]
        elif event == "job_started":
            self._started |= dict.fromkeys(record.jobs, self._clock())  # type: ignore[attr-defined]
        elif event == "job_finished":
            self._finish(record.job_id)  # type: ignore[attr-defined]
        elif event == "job_error":
            self._n_errors += 1
        elif record.msg and str(record.msg).startswith(_DRY_RUN_END):
            self._say(self._forecast.text(self._planned))

    def line(self) -> str:
        """Say how far the run is."""
        now = self._clock()
        n, done = self._planned[_LAST_STAGE], self._finished[_LAST_STAGE]
        parts = [f"scans: {done:,} of {n:,} done, {self._n_failed:,} of them failed, {n - done:,} left"] if n else []
        parts.append(f"jobs: {self._n_jobs_done:,} of {self._n_jobs:,}")
        if self._n_errors:
            parts.append(f"{self._n_errors:,} jobs ended with an error, see above")
        elapsed = now - self._begin
        if done and elapsed:
            parts.append(f"{3600 * done / elapsed:,.0f} scans an hour")
        left_s = self._seconds_left(elapsed)
        if left_s is not None and n > done:
            end = time.strftime("%a %H:%M", time.localtime(now + left_s))
            parts.append(f"{duration_text(left_s)} left, done at about {end}")
        return "; ".join(parts)

    def _plan(self, record: logging.LogRecord) -> None:
        jobs = {rule: n for rule, n in record.stats.items() if rule != "total"}  # type: ignore[attr-defined]
        self._n_jobs = sum(jobs.values())
        self._planned = Counter({rule: self._n_scans(rule, n) if rule in STAGES else n for rule, n in jobs.items()})
        self._begin = self._told = self._clock()
        if not self._is_dry_run():
            self._say(self._forecast.text(self._planned))

    def _finish(self, job: int) -> None:
        rule, wildcards = self._jobs.get(job, ("", {}))
        scans = self._scans_of(rule, wildcards["scans"]) if rule in STAGES else ()
        self._n_jobs_done += 1
        self._finished[rule] += len(scans) or 1
        self._seconds[rule] += self._clock() - self._started.pop(job, self._clock())
        if rule == _LAST_STAGE:
            self._n_failed += sum(map(self._has_failed, scans))
        if self._clock() - self._told >= self._interval_s:
            self._told = self._clock()
            self._say(self.line())

    def _seconds_left(self, elapsed_s: float) -> float | None:
        """Estimate by what each stage took so far, and by its usual cost where none has ended yet."""
        running = sum(self._clock() - started for started in self._started.values())
        busy = sum(self._seconds[stage] for stage in STAGES) + running
        if not busy or not elapsed_s:
            return None
        at_once = max(busy / elapsed_s, 0.1)
        left = 0.0
        for stage in STAGES:
            done = self._finished[stage]
            mean_s = self._seconds[stage] / done if done else self._forecast.seconds_of(stage)
            left += mean_s * (self._planned[stage] - done)
        return left / at_once

    def _has_failed(self, scan_id: str) -> bool:
        try:
            record = json.loads(self._record_of(scan_id).read_text())
        except (OSError, json.JSONDecodeError):
            return True
        return record["status"] != "ok" or record["metrics"].get("verdict") == "failed"

    def _say(self, text: str) -> None:
        if not self._is_quiet():
            self._stream.write(f"\n{text}\n" if "\n" in text else f"{text}\n")
            self._stream.flush()


def tell_progress(plan: Any, workflow: Any) -> None:
    """Listen to the run that is being planned; once, in the process that plans it."""
    from snakemake.logging import logger

    for handler in [handler for handler in logger.handlers if isinstance(handler, Progress)]:
        logger.removeHandler(handler)
    if not workflow.is_main_process:
        return
    settings = plan.settings
    forecast = Forecast(
        n_scans=len(plan.table.rows),
        excluded=[(row.scan_id, row.reason) for row in plan.table.excluded],
        results=Path(settings.results),
        n_cores=lambda: workflow.resource_settings.cores,
        models=settings.models,
        steps={
            stage: f"{getattr(settings, stage).n_steps:,} steps" for stage in ("train_identity", "train_expression")
        },
    )
    handler = Progress(
        forecast,
        is_dry_run=lambda: workflow.dryrun,
        is_quiet=lambda: "all" in {str(quiet) for quiet in workflow.output_settings.quiet or ()},
        record_of=lambda scan_id: Path(record_path(settings.results, scan_id, _LAST_STAGE)),
        scans_of=plan.scans_left,
        n_scans=plan.n_scans_left,
    )
    logger.addHandler(handler)
