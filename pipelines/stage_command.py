"""What the commands of all per-scan stages share: options, reuse of what is current, verdicts, atomic writes.

Each stage's script gives one function that takes a job and writes its artifacts into `job.out`. Everything else is
here: one scan or many in one process, a failed scan never stopping the next, artifacts moved into the scan's folder
only when all of them are complete, and the record written last. A process that is asked for what it finds made loads
nothing beyond the standard library.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nphm_core.durable import sync
from nphm_core.errors import ConfigError, NphmError, TemplateError
from nphm_core.provenance import Stopwatch, note_provenance
from nphm_core.records import (
    current_record,
    describe_artifact,
    file_digest,
    read_record,
    result_digest,
    scan_folder,
    signature,
    write_record,
    write_unit,
)
from nphm_core.records import stage_key as key_of
from nphm_core.seals import source_files
from nphm_core.stages import STAGES, Stage
from nphm_core.work_ahead import is_forced
from pipelines.stage_logs import own_log
from pipelines.stage_trouble import NO_VERDICT, alone, note_trouble, trouble_text
from pipelines.stage_watch import Tell, nobody, watch

if TYPE_CHECKING:
    import numpy as np

    from nphm_core.config import Section
    from nphm_core.io.scan_table import ScanTable
    from nphm_core.template.template import Template

log = logging.getLogger("nphm")


@dataclass(frozen=True)
class Job:
    """One stage's work on one scan, as its function sees it."""

    scan_id: str
    stage: Stage
    results: Path
    out: Path
    """Staging folder: the stage writes its artifacts here."""
    settings: Any
    """The stage's section of the config."""
    seed: int
    template_folder: Path | None
    options: argparse.Namespace
    """All options of the command, for those that only one stage has."""
    ahead: "Records" = field(default_factory=dict)
    """What this process made ahead of its rules."""

    @property
    def folder(self) -> Path:
        """Folder of this scan, to read from."""
        return scan_folder(self.results, self.scan_id)

    @property
    def rng(self) -> "np.random.Generator":
        """A fresh generator that depends on seed, stage and scan only."""
        from nphm_core.seeds import rng_for

        if not self.stage.uses_seed:
            raise ValueError(f"the stage {self.stage.name} is declared to draw no random numbers")
        return rng_for(self.seed, self.stage.name, self.scan_id)

    @cached_property
    def row(self) -> dict[str, Any]:
        """What the scan table says of this scan, as ingest recorded it."""
        return self.record("ingest")["metrics"]["row"]

    @cached_property
    def template(self) -> "Template":
        """The template; read once a process."""
        if self.template_folder is None:
            raise ValueError(f"the stage {self.stage.name} does not use the template")
        return _read_template(self.template_folder, file_digest(self.template_folder / "template.json"))

    def record(self, stage: str) -> dict[str, Any]:
        """Give the record of an earlier stage of this scan."""
        return self.ahead.get((self.scan_id, stage)) or _needed_record(self.results, self.scan_id, stage)

    def related(self, role: str) -> Path | None:
        """Give the folder of the subject's `identity` or `canonical` scan; None if it is this one or there is none."""
        other = related_scan(self.results, self.scan_id, role)
        return scan_folder(self.results, other) if other else None


Process = Callable[[Job], dict[str, Any]]
Records = dict[tuple[str, str], dict[str, Any]]
"""Records by scan and stage."""


@lru_cache(maxsize=1)
def _read_template(folder: Path, digest: str) -> "Template":
    from nphm_core.template.template import read_template

    return read_template(folder)


def stage_command(
    name: str, process: Process, *, extra: Callable[[argparse.ArgumentParser], None] | None = None
) -> None:
    """Run a stage's command line; exits 0 when every scan has a verdict, 1 with a message, 2 for a wrong call.

    Trouble of the machine (disk full, out of memory) is no verdict on a scan: it ends the process with an error, so
    that the scheduler may try again.
    """
    from nphm_core.config import Config, read_section
    from pipelines.stage_ahead import work_ahead
    from pipelines.stage_lost import settle_lost

    stage = STAGES[name]
    options = _parser(stage, sys.modules[process.__module__].__doc__, extra).parse_args()
    _log_to_stderr()
    try:
        section: Any = Config.model_fields[name].annotation
        settings = read_section(section, settings_json(options.settings), name)
    except NphmError as error:
        log.error("%s", error)
        sys.exit(1)

    def work(scan_ids: Sequence[str], tell: Tell) -> int:
        made: Records = {}
        code = 0
        for scan_id in scan_ids:
            tell(scan_id, name)
            if _settle(stage, process, scan_id, settings, options, tell):
                work_ahead(stage, scan_id, options, made, tell)
            else:
                code = 1
            tell(scan_id, "")
        if made:
            # For those that waited for another scan of this job.
            for scan_id in scan_ids:
                work_ahead(stage, scan_id, options, made, tell)
        return code

    code = watch(options.scans, work, lambda lost: settle_lost(lost, stage, settings, options))
    if code:
        sys.exit(code)
    _finish_unit(stage, options)


def _settle(
    stage: Stage, process: Process, scan_id: str, settings: "Section", options: argparse.Namespace, tell: Tell
) -> bool:
    """Bring a scan through a stage and tell whether it got its verdict."""
    started = time.process_time()
    try:
        record = run_stage(stage, process, scan_id, settings, options, tell)
    except NO_VERDICT as error:
        note_trouble(Path(options.results), scan_id, stage.name, trouble_text(error))
        return False
    except NphmError as error:
        # Not a verdict on a scan but a wrong call: an earlier stage that was never run.
        log.error("%s", error)
        return False
    log_verdict(record, time.process_time() - started)
    return True


def finish_current(name: str) -> bool:
    """Settle a command line whose scans are all made already, and say whether it was one.

    Needs settings in full, as the rules give them, and looks at no delivered file, so it never settles `ingest`.
    """
    stage = STAGES[name]
    options, others = _parser(stage, None, None).parse_known_args()
    if others or is_forced(name):
        return False
    results, found = Path(options.results), []
    for scan_id in options.scans:
        key, _ = stage_key(stage, scan_id, settings_json(options.settings), options)
        found.append(current_record(results, scan_id, name, key))
        if found[-1] is None:
            return False
    _log_to_stderr()
    for record in found:
        if record is not None:
            _keep(results, record)
            log_verdict(record, time.process_time())
    _finish_unit(stage, options)
    return True


def _finish_unit(stage: Stage, options: argparse.Namespace) -> None:
    if options.unit:
        write_unit(Path(options.unit), Path(options.results), stage.name, options.scans)


def _keep(results: Path, record: dict[str, Any]) -> None:
    write_record(results, record["scan"], record["stage"], record)
    log.info("nothing to do: the results are those of the same inputs, settings and version")


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


def settings_json(text: str) -> dict[str, Any]:
    """Read the text of a command's --settings; ConfigError where it is no JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--settings is not JSON ({error}); expected an object like {{}}. Got {text!r}") from None


def run_stage(
    stage: Stage,
    process: Process,
    scan_id: str,
    settings: "Section",
    options: argparse.Namespace,
    tell: Tell = nobody,
) -> dict[str, Any]:
    """Bring one scan through a stage, or see that nothing is to be done, and give its record."""
    with alone(Path(options.results), scan_id, stage.name, tell):
        return _run_alone(stage, process, scan_id, settings, options)


def _run_alone(
    stage: Stage, process: Process, scan_id: str, settings: "Section", options: argparse.Namespace
) -> dict[str, Any]:
    results = Path(options.results)
    source = _source(scan_id, options) if stage.name == "ingest" else None
    key, blocked_by = stage_key(stage, scan_id, settings.model_dump(mode="json"), options, source=source)
    record = None if is_forced(stage.name) else current_record(results, scan_id, stage.name, key)
    if record is not None:
        if source is not None:
            record["seen"] |= {"sources": source.files}
        _keep(results, record)
        return record
    if blocked_by and not stage.tolerates_failure:
        remove_artifacts(stage, scan_folder(results, scan_id), keep=set())
        reason = f"the stage {blocked_by} has no result"
        outcome = {"status": "blocked", "reason": reason, "blocked_by": blocked_by, "artifacts": {}, "metrics": {}}
    else:
        started = time.process_time()
        with own_log(options_logs(options), stage.name, scan_id):
            outcome = attempt(stage, process, scan_id, settings, options)
            if options_logs(options):
                log_verdict(outcome | {"scan": scan_id}, time.process_time() - started)
    record = new_record(stage, scan_id, key, outcome, source)
    write_record(results, scan_id, stage.name, record)
    return record


def options_logs(options: argparse.Namespace) -> str | None:
    """Give the folder of the scans' own logs; None where a job's log is its scan's."""
    return getattr(options, "logs", None)


def new_record(
    stage: Stage, scan_id: str, key: str, outcome: dict[str, Any], source: "Source | None" = None
) -> dict[str, Any]:
    """Give the record of what a stage came to."""
    facts = {"scan": scan_id, "stage": stage.name, "version": stage.version, "key": key}
    seen = {"artifacts": outcome.get("seen", {})} | ({"sources": source.files} if source else {})
    return facts | {"artifacts": {}, "metrics": {}} | outcome | {"seen": seen}


def attempt(
    stage: Stage,
    process: Process,
    scan_id: str,
    settings: "Section",
    options: argparse.Namespace,
    ahead: Records | None = None,
) -> dict[str, Any]:
    """Do a stage's work on a scan, move what it wrote into the scan's folder, and give the outcome."""
    folder = scan_folder(Path(options.results), scan_id)
    watch = Stopwatch()
    remove_leftovers(stage, folder)
    staging = folder / f".{stage.name}.{os.getpid()}"
    staging.mkdir(parents=True)
    template = Path(options.template) if stage.uses_template else None
    job = Job(scan_id, stage, Path(options.results), staging, settings, options.seed, template, options, ahead or {})
    try:
        metrics = process(job)
        missing = [name for name in stage.artifacts if not (staging / name).is_file()]
        if missing:
            raise RuntimeError(f"the stage {stage.name} did not write {', '.join(missing)}")
        outcome = {"status": "ok", "reason": "", "warnings": metrics.pop("warnings", []), "metrics": metrics}
    except NO_VERDICT:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    except NphmError as error:
        outcome = {"status": "failed", "reason": str(error), "error": type(error).__name__}
    except Exception as error:
        log.exception("unexpected error: please report it with this log")
        outcome = {"status": "failed", "reason": f"internal error: {error}", "error": type(error).__name__}
    outcome |= _move_artifacts(stage, staging, folder)
    facts = watch.facts() | {"status": outcome["status"], "seed": options.seed if stage.uses_seed else None}
    note_provenance(job.results, scan_id, stage.name, stage.version, settings.model_dump(mode="json"), facts)
    return outcome


def _move_artifacts(stage: Stage, staging: Path, folder: Path) -> dict[str, Any]:
    """Move what the stage wrote (after a failure: pictures of it) and remove what an earlier run left."""
    names = sorted(path.name for path in staging.iterdir())
    for name in names:
        # On the disk before the record says that they are there.
        sync(staging / name)
        os.replace(staging / name, folder / name)
    staging.rmdir()
    remove_artifacts(stage, folder, keep=set(names))
    sync(folder)
    # The status before the content: a change in between is then a change of what was seen.
    seen = {name: signature(folder / name) for name in names}
    return {"artifacts": {name: describe_artifact(folder / name) for name in names}, "seen": seen}


def remove_artifacts(stage: Stage, folder: Path, keep: set[str]) -> None:
    """Remove what a stage may have written into the scan's folder, but for what is kept."""
    for name in {*stage.artifacts, *stage.optional_artifacts} - keep:
        (folder / name).unlink(missing_ok=True)


def remove_leftovers(stage: Stage, folder: Path) -> None:
    """Remove what a killed process left half made; whoever calls this holds the stage's lock."""
    for path in (*folder.glob(f".{stage.name}.*"), *folder.glob(f"stages/.[0-9]*-*{stage.name}.json")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def stage_key(
    stage: Stage,
    scan_id: str,
    settings: Mapping[str, Any],
    options: argparse.Namespace,
    ahead: Records | None = None,
    source: "Source | None" = None,
) -> tuple[str, str | None]:
    """Give the digest of everything the result depends on, and the first earlier stage that has no result.

    `settings` is the stage's section in full, as JSON. `ahead` are records that go before the tracked ones.
    """
    results = Path(options.results)
    needed = [(scan_id, name) for name in stage.needs]
    for role, names in (("identity", stage.needs_identity), ("canonical", stage.needs_canonical)):
        other = related_scan(results, scan_id, role) if names else None
        needed += [(other, name) for name in names] if other else []
    inputs, blocked_by = {}, None
    for other, name in needed:
        record = (ahead or {}).get((other, name)) or _needed_record(results, other, name)
        inputs[f"{other}:{name}"] = result_digest(record)
        # A failed identity or canonical scan does not block the subject's others: the stage copes and warns.
        if record["status"] != "ok" and blocked_by is None and other == scan_id:
            blocked_by = record.get("blocked_by", name)
    template = _template_digest(Path(options.template)) if stage.uses_template else None
    if stage.name == "ingest":
        source = source or _source(scan_id, options)
    facts = {"row": source.row, "files": {name: sha for name, (_, sha) in source.files.items()}} if source else None
    return key_of(stage, settings, options.seed, inputs, template=template, source=facts), blocked_by


def _needed_record(results: Path, scan_id: str, stage: str) -> dict[str, Any]:
    record = read_record(results, scan_id, stage)
    if record is None:
        raise NphmError(f"no record of {stage} exists. Run that stage first. Scan {scan_id}")
    return record


def _template_digest(folder: Path) -> str:
    path = folder / "template.json"
    if not path.is_file():
        raise TemplateError(
            "the template folder holds no template.json; expected what `python -m pipelines.template` writes. "
            f"Run that command, or give --template its folder. Folder {folder}"
        )
    # It holds the digest of the arrays beside it.
    return file_digest(path)


@dataclass(frozen=True)
class Source:
    """What `ingest` reads of a scan."""

    row: dict[str, Any]
    """The facts of the scan table."""
    files: dict[str, tuple[list[int] | None, str]]
    """Status and SHA-256 of each file, by column; None and empty if it does not exist."""


def scan_row(options: argparse.Namespace, scan_id: str) -> dict[str, Any]:
    """Give what the scan table says of a scan; a process reads the table once."""
    from nphm_core.io.scan_table import row_facts

    return row_facts(_read_table(options.table, options.verdicts), scan_id, options.canonical)


@lru_cache(maxsize=1)
def _read_table(path: str, verdicts: Path | None) -> "ScanTable":
    from nphm_core.io.verdicts import read_judged_table

    return read_judged_table(Path(path), verdicts)


def _source(scan_id: str, options: argparse.Namespace) -> Source:
    row = scan_row(options, scan_id)
    # The status first, as in _move_artifacts.
    status = {name: (signature(path), path) for name, path in source_files(row).items()}
    files = {name: (seen, file_digest(path) if path.is_file() else "") for name, (seen, path) in status.items()}
    return Source(row, files)


def related_scan(results: Path, scan_id: str, role: str) -> str | None:
    """Give the id of the subject's `identity` or `canonical` scan; None if it is this one or there is none."""
    record = read_record(results, scan_id, "ingest")
    other = (record or {}).get("metrics", {}).get("row", {}).get(f"{role}_scan")
    return other if other and other != scan_id else None


def log_verdict(record: dict[str, Any], cpu_s: float) -> None:
    """Log what a stage came to."""
    level = {"ok": logging.INFO, "blocked": logging.WARNING, "failed": logging.ERROR}[record["status"]]
    log.log(level, "%s: %s %s (%.2f CPU seconds)", record["scan"], record["status"], record["reason"], cpu_s)
    for warning in record.get("warnings", []):
        log.warning("%s: %s", record["scan"], warning)


def _parser(
    stage: Stage, text: str | None, extra: Callable[[argparse.ArgumentParser], None] | None
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m pipelines.{stage.name}", description=text, add_help=text is not None, allow_abbrev=False
    )
    parser.add_argument("scans", nargs="+", metavar="SUBJECT/EXPRESSION", help="scans to work on, one or many")
    parser.add_argument("--results", required=True, help="folder of the results")
    parser.add_argument("--settings", default="{}", help=f"JSON of the config's section `{stage.name}`")
    parser.add_argument("--unit", help="file to write when all scans have records: what came of each")
    parser.add_argument("--logs", help="folder of logs: each scan gets its own there, STAGE/SCAN.log")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    if stage.uses_template:
        parser.add_argument("--template", required=True, help="folder of the template")
    if extra is not None:
        extra(parser)
    return parser
