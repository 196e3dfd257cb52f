"""What the Snakefile asks before it plans: settings, scans, inputs of each job, and results that are gone.

The rules track one small record per stage and scan instead of the artifacts: a stage that fails on a scan says so in
its record and exits well, so that all other scans go on. Artifacts that were deleted or cut short are found when the
main process starts, by their sizes; their jobs are then forced, as `--forcerun` does.
"""

import functools
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nphm_core import time_limit
from nphm_core.config import Config, read_section
from nphm_core.io import verdicts
from nphm_core.io.scan_table import row_facts
from nphm_core.records import digest_of, stale_records, template_folder
from nphm_core.stages import STAGES, TEMPLATE_VERSION, record_path
from nphm_core.work_ahead import VARIABLE, AheadPlan

InputFunction = Callable[[Any], dict[str, Any]]


class Plan:
    """All that the rules need to know; made once each time the Snakefile is read."""

    def __init__(self, config: dict[str, Any], workflow: Any, ancient: Callable[[str], str]) -> None:
        self.settings: Config = read_section(Config, config)
        # By the environment, so that no rule's command or parameters tell of what decides nothing about results.
        os.environ[time_limit.VARIABLE] = str(self.settings.stage_timeout_s)
        self.table = verdicts.read_judged_table(Path(self.settings.scans), self._verdicts)
        self.scan_ids = [row.scan_id for row in self.table.rows]
        self._workflow = workflow
        self._ancient = ancient
        self._facts: dict[str, dict[str, Any]] = {}
        # Jobs on a cluster read the Snakefile as well: they have been told what to do.
        stale = stale_records(self.settings.results, self.scan_ids) if workflow.is_main_process else []
        self._stale = frozenset(stale)
        self._restored = {_scan_of(record) for record in stale}
        # Likewise: no rule's command is to tell of the settings of another stage.
        os.environ[VARIABLE] = self.ahead.to_text()
        os.environ[verdicts.VARIABLE] = self.settings.verdicts

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

    def record(self, stage: str, scan_id: str = "{subject}/{expression}") -> str:
        """Give the record of a stage, for one scan or with wildcards."""
        return record_path(self.settings.results, scan_id, stage)

    @property
    def all_records(self) -> list[str]:
        """Every record of every scan: a stage whose record is gone runs again even if later ones exist."""
        return [self.record(stage, scan_id) for scan_id in self.scan_ids for stage in STAGES]

    @property
    def summary(self) -> str:
        """The table of all scans."""
        return f"{self.settings.results}/summary.tsv"

    @property
    def verdict(self) -> str:
        """What the table comes to, under the run's fingerprint: exists only if no more scans failed than allowed."""
        return f"{self.settings.results}/verdict.txt"

    @property
    def fingerprint(self) -> str:
        """Digest of all that decides results beside the scans and the head model: settings, seed, versions."""
        versions = {stage: self.version(stage) for stage in STAGES}
        return f"settings {digest_of([self.ahead.settings, versions, self.settings.seed])[:16]}"

    @property
    def template_folder(self) -> str:
        """The template's folder, where `python -m pipelines.template --cache` puts it too."""
        return template_folder(self.settings.cache, self.settings.template.model_dump(mode="json"))

    @property
    def template(self) -> str:
        """The file that stands for the whole template."""
        return f"{self.template_folder}/template.json"

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
    def limit_option(self) -> str:
        """Give the option that makes that command fail if too many scans did."""
        return f"--max-failed-share {self.settings.max_failed_share}"

    def section_option(self, section: str) -> str:
        """Give a config section as an option for the shell."""
        settings = getattr(self.settings, section).model_dump(mode="json")
        return f"--settings {shlex.quote(json.dumps(settings, sort_keys=True))}"

    def row(self, wildcards: Any) -> dict[str, Any]:
        """Give what the scan table says of a scan: a change there makes the scan anew."""
        scan_id = f"{wildcards.subject}/{wildcards.expression}"
        if scan_id not in self._facts:
            self._facts[scan_id] = row_facts(self.table, scan_id, self.settings.canonical)
        return self._facts[scan_id]

    def delivered(self, wildcards: Any) -> list[str]:
        """List the files of a scan as delivered; those that are missing are the stage's verdict, not the run's end."""
        self._force_if_damaged(self.record("ingest", f"{wildcards.subject}/{wildcards.expression}"))
        facts = self.row(wildcards)
        named = (facts.get(key) for key in ("path", "texture", "mask", "landmarks"))
        return [str(path) for path in named if path and Path(path).exists()]

    def inputs(self, stage: str) -> InputFunction:
        """Give the function that lists a stage's inputs for a scan, by name."""
        facts = STAGES[stage]

        def of_scan(wildcards: Any) -> dict[str, Any]:
            scan_id = f"{wildcards.subject}/{wildcards.expression}"
            self._force_if_damaged(self.record(stage, scan_id))
            found: dict[str, Any] = {name: self.record(name, scan_id) for name in facts.needs}
            for role, names in (("identity", facts.needs_identity), ("canonical", facts.needs_canonical)):
                other = self.row(wildcards).get(f"{role}_scan")
                if other and other != scan_id:
                    found |= {f"{role}_{name}": self._of_other(self.record(name, other), other) for name in names}
            if facts.uses_template:
                found["template"] = self.template
            return found

        return of_scan

    def _of_other(self, record: str, scan_id: str) -> str:
        # A scan that only gets lost files back gets the same ones: no reason to make others that read them anew.
        # Should they differ after all, the next run sees it by the record's checksum. With changed settings the
        # others must run as well, and then after this one.
        return self._ancient(record) if scan_id in self._restored and self._is_as_made else record

    @functools.cached_property
    def _is_as_made(self) -> bool:
        """Whether the last complete run had these settings and versions."""
        path = Path(self.verdict)
        return path.is_file() and self.fingerprint in path.read_text().splitlines()[:1]

    def _force_if_damaged(self, record: str) -> None:
        # As `--forcerun` does. Params cannot say it: Snakemake keeps what they were before the job, and runs it again.
        if record in self._stale:
            self._workflow.dag.forcefiles.add(record)


def use_this_python(basedir: str) -> None:
    """Let jobs find this Python and this code, wherever Snakemake was started; a conda environment still goes first."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [basedir, os.environ.get("PYTHONPATH")]))


def _scan_of(record: str) -> str:
    subject, expression = Path(record).parts[-4:-2]
    return f"{subject}/{expression}"
