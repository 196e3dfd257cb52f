"""Run the stages' commands on many scans, as the rules do, and read what came of it."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from nphm_core.stages import STAGES
from nphm_core.work_ahead import VARIABLE, AheadPlan

FRONT_STAGES = ("ingest", "render", "landmarks")
"""They do not depend on the template."""
_CPU = re.compile(r"^\w+ \S+: (\S+): .*\((\d+\.\d+) CPU seconds\)$", re.MULTILINE)
_AHEAD = re.compile(r"^\w+ \S+: (\S+): made (\w+) ahead, (\d+\.\d+) CPU seconds$", re.MULTILINE)


def run_stage(
    stage: str,
    results: Path,
    scan_ids: Sequence[str],
    *,
    table: Path | None = None,
    template: Path | None = None,
    peaks_mb: dict[str, float] | None = None,
) -> dict[str, float]:
    """Run one stage's command on scans in one process; give the CPU seconds of each scan, imports not counted.

    `peaks_mb` gets the largest memory that one of its processes had in RAM, under the stage's name.
    """
    command = [sys.executable, "-m", f"pipelines.{stage}", "--results", str(results)]
    if stage == "ingest":
        command += ["--table", str(table), "--canonical", "closed"]
    if STAGES[stage].uses_template:
        command += ["--template", str(template)]
    text, peak_mb = _run([*command, *scan_ids], stage)
    if peaks_mb is not None:
        peaks_mb[stage] = peak_mb
    return {scan_id: float(cpu_s) for scan_id, cpu_s in _CPU.findall(text)}


def _run(command: Sequence[str], stage: str, environment: dict[str, str] | None = None) -> tuple[str, float]:
    """Run a command; give what it logs, and the peak memory in MB of the largest process."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    text = process.stderr.read()
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"the stage {stage} ended with {process.returncode}: {text[-2000:]}")
    return text, usage.ru_maxrss / 1024


def run_rule(
    stage: str, results: Path, scan_id: str, plan: AheadPlan, *, table: Path, canonical: str = "closed"
) -> dict[str, float]:
    """Run a stage as its rule does, working ahead; give the CPU seconds of each stage it made, imports not counted."""
    settings = ["--settings", json.dumps(plan.settings[stage], sort_keys=True), "--seed", str(plan.seed)]
    command = [sys.executable, "-m", "pipelines", stage, "--results", str(results), *settings]
    if stage == "ingest":
        command += ["--table", str(table), "--canonical", canonical]
    if STAGES[stage].uses_template:
        command += ["--template", plan.template]
    environment = os.environ | {VARIABLE: plan.to_text()}
    text, _ = _run([*command, scan_id], stage, environment)
    own = dict.fromkeys([] if "nothing to do" in text else [stage], sum(float(m[1]) for m in _CPU.findall(text)))
    return own | {name: float(cpu_s) for _, name, cpu_s in _AHEAD.findall(text)}


def run_stages(
    stages: Iterable[str], results: Path, scan_ids: Sequence[str], *, table: Path, template: Path | None = None
) -> dict[str, float]:
    """Run several stages; give the CPU seconds of each scan over all of them, imports not counted."""
    total = dict.fromkeys(scan_ids, 0.0)
    for stage in stages:
        print(f"{stage} on {len(scan_ids)} scans ...", file=sys.stderr, flush=True)
        for scan_id, cpu_s in run_stage(stage, results, scan_ids, table=table, template=template).items():
            total[scan_id] += cpu_s
    return total


def children_cpu_s() -> float:
    """Give the CPU seconds, user and system, of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table with columns of even width."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    for i, row in enumerate(cells):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if i == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    sys.stdout.flush()
