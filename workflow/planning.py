"""What the Snakefile asks before it plans: settings, scans, what is left to do, and the inputs of each job.

The rules track one small record per stage and scan instead of the artifacts: a stage that fails on a scan says so in
its record and exits well, so that all other scans go on. What is left to do is found before there is any job, from
the results' seals (`nphm_core.seals`): a rule matches only what is to be made, so nothing else enters the plan, and
what is there is a file like any other. With 5,200 scans a rerun costs what is left to do and not what is done.
"""

import contextlib
import functools
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake.logging import logger

from nphm_core import time_limit
from nphm_core.config import Config, read_section
from nphm_core.io import verdicts
from nphm_core.io.scan_table import row_facts
from nphm_core.records import digest_of, file_digest, template_folder
from nphm_core.seals import Inspection, Wanted
from nphm_core.stages import STAGES, TEMPLATE_VERSION
from nphm_core.work_ahead import AGAIN_VARIABLE, VARIABLE, AheadPlan
from workflow.command_line import asked
from workflow.units import Units, scans_at_once

InputFunction = Callable[[Any], dict[str, Any]]
WHOLE_VARIABLE = "NPHM_WHOLE_PLAN"
"""With this environment variable all jobs enter the plan, done or not, as they do for --report and --summary."""
_ANY_UNIT = r"[A-Za-z0-9-]+(/[A-Za-z0-9-]+|\.\d+)?"
_LARGEST_JOB_MB = 16_000
_NO_UNIT = r"(?!)"


class Plan:
    """All that the rules need to know; made once each time the Snakefile is read."""

    def __init__(self, config: dict[str, Any], workflow: Any) -> None:
        self.settings: Config = read_section(Config, config)
        # By the environment, so that no rule's command or parameters tell of what decides nothing about results.
        os.environ[time_limit.VARIABLE] = str(self.settings.stage_timeout_s)
        os.environ[verdicts.VARIABLE] = self.settings.verdicts
        self.table = verdicts.read_judged_table(Path(self.settings.scans), self._verdicts)
        self.scan_ids = [row.scan_id for row in self.table.rows]
        self._rows = {scan_id: row_facts(self.table, scan_id, self.settings.canonical) for scan_id in self.scan_ids}
        self._workflow = workflow
        self._asked = asked()
        self._is_whole = WHOLE_VARIABLE in os.environ or self._asked.tells_of_all
        at_once = scans_at_once(self.settings.scans_per_job, len(self._rows), self._asked.files)
        self.units = Units(self._rows, self.settings.results, at_once)
        # Likewise: no rule's command is to tell of the settings of another stage.
        os.environ[VARIABLE] = self.ahead.to_text()
        if workflow.is_main_process and self._asked.keeps_memory:
            workflow.global_resources["mem_mb"] = memory_mb()
        # Jobs on a cluster read the Snakefile as well: they have been told what to do.
        self._todo = self._look() if workflow.is_main_process else None

    @property
    def _verdicts(self) -> Path | None:
        """What a person said in the gallery."""
        return Path(self.settings.verdicts) if self.settings.verdicts else None

    @property
    def verdict_option(self) -> str:
        """Give the option that names a person's verdicts."""
        return shlex.join(["--verdicts", self.settings.verdicts]) if self.settings.verdicts else ""

    @property
    def judged(self) -> list[str]:
        """The file with a person's verdicts, if there is one."""
        return [self.settings.verdicts] if self.settings.verdicts else []

    @property
    def gallery(self) -> str:
        """The page on which people look at all scans."""
        return f"{self.settings.results}/report/index.html"

    @property
    def gallery_options(self) -> str:
        """Give the options of the command that writes the gallery."""
        settings = self.settings
        options = ["--table", settings.scans, "--results", settings.results, "--template", self.template_folder]
        subdivide = json.dumps(settings.subdivide.model_dump(mode="json"), sort_keys=True)
        options += ["--subdivide", subdivide, "--colour-max-mm", str(settings.evaluate.colour_max_mm)]
        return shlex.join(options)

    def _look(self) -> dict[str, dict[str, set[str]]]:
        """Find the units that each stage is to run on, and the scans in them for which it is to run."""
        forced = self._forced
        os.environ[AGAIN_VARIABLE] = ",".join(sorted(forced))
        inspection = self._inspection()
        todo: dict[str, dict[str, set[str]]] = {stage: {} for stage in STAGES}
        for scan_id in self.scan_ids:
            for stage in inspection.todo(scan_id).stages | forced:
                todo[stage].setdefault(self.units.of(scan_id), set()).add(scan_id)
        for unit, stage in self.units.asked(self._asked.files):
            todo[stage].setdefault(unit, set(self.units.scans.get(unit, ())))
        if not self._asked.is_dry:
            inspection.keep()
        return todo

    def _inspection(self) -> Inspection:
        template = None if self._is_template_due else file_digest(Path(self.template))
        wanted = Wanted(self.ahead.settings, self.settings.seed, template)
        tell = functools.partial(_tell_of_contents, is_dry=self._asked.is_dry)
        return Inspection(self.settings.results, wanted, self._rows, self.units.of_many, tell=tell)

    @property
    def _forced(self) -> set[str]:
        """The stages that the user wants again, and what follows."""
        named = set(STAGES) if self._asked.all_forced else set(self._asked.forced) & set(STAGES)
        if "template" in self._asked.forced:
            named |= {name for name, stage in STAGES.items() if stage.uses_template}
        for name, stage in STAGES.items():
            if named & {*stage.needs, *stage.needs_identity, *stage.needs_canonical}:
                named.add(name)
        return named

    @functools.cached_property
    def _is_template_due(self) -> bool:
        """Whether the template is missing, or made of another file."""
        try:
            facts = json.loads(Path(self.template).read_bytes()).get("facts", {})
            return any(file_digest(Path(path)) != facts.get("source_sha256") for path in self.template_sources)
        except (OSError, ValueError, AttributeError):
            return True

    def close(self) -> None:
        """Seal what a run has made, so that the next start need not read every record."""
        if self._workflow.is_main_process:
            self.__dict__.pop("_is_template_due", None)
            inspection = self._inspection()
            for scan_id in self.scan_ids:
                inspection.todo(scan_id)
            inspection.keep()

    def pattern(self, stage: str) -> str:
        """Give the regular expression of the units that a stage's rule is for: those it is to run on."""
        if self._todo is None or self._is_whole or len(self._todo[stage]) == len(self.units.scans):
            return _ANY_UNIT
        return "|".join(re.escape(unit) for unit in sorted(self._todo[stage])) or _NO_UNIT

    def scans_left(self, stage: str, unit: str) -> set[str]:
        """Give the scans of a unit for which a stage is to run; all if that is not known."""
        scans = set(self.units.scans.get(unit, ()))
        return scans if self._todo is None else self._todo[stage].get(unit, scans)

    def n_scans_left(self, stage: str, n_jobs: int) -> int:
        """Give for how many scans a stage is to run, in so many jobs; an estimate where not all of them are planned."""
        units = (self._todo or {}).get(stage) or self.units.scans
        return round(n_jobs * sum(len(scans) for scans in units.values()) / len(units)) if units else 0

    def record(self, stage: str) -> str:
        """Give what a stage's rule makes, with wildcards."""
        return self.units.tracked(stage, "{scans}")

    def records(self, *stages: str, scan_ids: list[str] | None = None) -> list[str]:
        """List what the rules of stages make, for all scans or some."""
        units = dict.fromkeys(self.units.of(scan_id) for scan_id in scan_ids or self.scan_ids)
        return [self.units.tracked(stage, unit) for unit in units for stage in stages]

    @property
    def left(self) -> list[str]:
        """What is to be made of all scans: also stages whose later ones exist."""
        if self._todo is None or self._is_whole:
            return self.records(*STAGES)
        return [self.units.tracked(stage, unit) for stage in STAGES for unit in sorted(self._todo[stage])]

    @property
    def summary(self) -> str:
        """The table of all scans."""
        return f"{self.settings.results}/summary.tsv"

    @property
    def verdict(self) -> str:
        """What the table comes to: exists only if no more scans failed than allowed."""
        return f"{self.settings.results}/verdict.txt"

    @property
    def rows_digest(self) -> str:
        """Digest of what the scan table says of all scans."""
        return digest_of(self._rows)

    @property
    def template_folder(self) -> str:
        """The template's folder, where `python -m pipelines.template --cache` puts it too."""
        return template_folder(self.settings.cache, self.settings.template.model_dump(mode="json"))

    @property
    def template(self) -> str:
        """The file that stands for the whole template."""
        return f"{self.template_folder}/template.json"

    def template_inputs(self, wildcards: Any) -> list[str]:
        """List what the template is made of; if that is not what it was made of, its job is forced."""
        if self._todo is not None and self._is_template_due:
            self._workflow.dag.forcefiles.add(self.template)
        return self.template_sources

    @property
    def template_sources(self) -> list[str]:
        """The head model's file, unless it is the embedded one."""
        source = self.settings.template.source
        return [] if source == "embedded" else [str(Path(source).expanduser())]

    @property
    def template_version(self) -> int:
        """Raised when the same head model gives another template."""
        return TEMPLATE_VERSION

    def version(self, stage: str) -> int:
        """Give the stage's result version."""
        return STAGES[stage].version

    def options(self, stage: str) -> str:
        """Give the options of a stage's command that decide its result."""
        return f"--seed {self.settings.seed} {self.section_option(stage)}"

    def folders(self, stage: str) -> str:
        """Give the options of a stage's command that say where to read and write."""
        parts = ["--results", self.settings.results]
        if STAGES[stage].uses_template:
            parts += ["--template", self.template_folder]
        if stage == "ingest":
            parts += ["--table", self.settings.scans, "--canonical", self.settings.canonical]
        return shlex.join(parts)

    @property
    def ahead(self) -> AheadPlan:
        """What a job may go on with when its own stage is done."""
        settings = {stage: getattr(self.settings, stage).model_dump(mode="json") for stage in STAGES}
        return AheadPlan(settings, self.settings.seed, self.template_folder)

    @property
    def summary_options(self) -> str:
        """Give the options of the command that writes the table and tells how all scans went."""
        scans = ["--table", self.settings.scans, "--canonical", self.settings.canonical]
        scans += ["--verdicts", self.settings.verdicts] if self.settings.verdicts else []
        return shlex.join([*scans, "--results", self.settings.results, "--out", self.summary])

    @property
    def closing_command(self) -> str:
        """Give the command that ends a run: what became of all scans, or nothing if only some were asked for."""
        is_whole = any(job.rule.name == "summary" for job in self._workflow.dag.jobs)
        return f"python -m pipelines.summary {self.summary_options}" if is_whole else "true"

    @property
    def methods(self) -> str:
        """The methods of the run in words."""
        return f"{self.settings.results}/methods.md"

    def page(self, name: str) -> str:
        """Give the page that shows a table or text in Snakemake's report."""
        return f"{self.settings.results}/pages/{name}.html"

    @property
    def references(self) -> str:
        """What the methods cite."""
        return f"{self.settings.results}/methods.bib"

    @property
    def whole_config_option(self) -> str:
        """Give all settings as an option for the shell."""
        return f"--settings {shlex.quote(json.dumps(self.settings.model_dump(mode='json'), sort_keys=True))}"

    @property
    def limit_option(self) -> str:
        """Give the option that makes that command fail if too many scans did."""
        return f"--max-failed-share {self.settings.max_failed_share}"

    def section_option(self, section: str) -> str:
        """Give a config section as an option for the shell."""
        settings = getattr(self.settings, section).model_dump(mode="json")
        return f"--settings {shlex.quote(json.dumps(settings, sort_keys=True))}"

    def scans(self, wildcards: Any) -> list[str]:
        """List the scans of a job."""
        return self.units.scans[wildcards.scans]

    def unit_option(self, wildcards: Any, output: Any) -> str:
        """Give the options for a job of several scans: the file that it makes, and where each scan's log goes."""
        return shlex.join(["--logs", "logs", "--unit", str(output[0])]) if wildcards.scans in self.units.several else ""

    def minutes(self, minutes: int) -> Callable[..., int]:
        """Give a job's time limit: more for more scans, and for another attempt."""
        return lambda wildcards, attempt: attempt * (minutes + 4 * len(self.scans(wildcards)))

    def megabytes(self, megabytes: int) -> Callable[..., int]:
        """Give a job's memory: more for another attempt."""
        return lambda wildcards, attempt: attempt * megabytes

    def delivered(self, wildcards: Any) -> list[str]:
        """List the files of scans as delivered; those that are missing are the stage's verdict, not the run's end."""
        self._force("ingest", wildcards.scans)
        rows = (self._rows[scan_id] for scan_id in self.scans(wildcards))
        named = (row.get(key) for row in rows for key in ("path", "texture", "mask", "landmarks"))
        return [str(path) for path in named if path and Path(path).exists()]

    def inputs(self, stage: str) -> InputFunction:
        """Give the function that lists a stage's inputs for a unit, by name."""
        facts = STAGES[stage]

        def of_unit(wildcards: Any) -> dict[str, Any]:
            unit = wildcards.scans
            self._force(stage, unit)
            found: dict[str, Any] = {name: self.units.tracked(name, unit) for name in facts.needs}
            for role, names in (("identity", facts.needs_identity), ("canonical", facts.needs_canonical)):
                other = self._rows[self.units.scans[unit][0]].get(f"{role}_scan")
                if names and other and self.units.of(other) != unit:
                    found |= {f"{role}_{name}": self.units.tracked(name, self.units.of(other)) for name in names}
            if facts.uses_template:
                found["template"] = self.template
            return found

        return of_unit

    def _force(self, stage: str, unit: str) -> None:
        # As `--forcerun` does: Snakemake knows neither contents nor what its jobs read by themselves.
        if self._todo is not None and unit in self._todo[stage]:
            self._workflow.dag.forcefiles.add(self.units.tracked(stage, unit))


def _tell_of_contents(*, is_dry: bool) -> None:
    kept = "A dry run keeps nothing: the next start compares again." if is_dry else "The next start knows them."
    logger.info(
        "Some files have another status than when they were made or read (restored, copied, other permissions): their "
        f"contents are compared, at about half a second for each GB. {kept}"
    )


def memory_mb() -> int:
    """Give the memory that jobs on this machine may take together: its own, or what its control group allows.

    Never less than the largest job asks for: one job at a time is tried on any machine.
    """
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(Path("/sys/fs/cgroup", name).read_text()))
    return max(total // 2**20, _LARGEST_JOB_MB)


def use_this_python(basedir: str) -> None:
    """Let jobs find this Python and this code, wherever Snakemake was started; a conda environment still goes first."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [basedir, os.environ.get("PYTHONPATH")]))
