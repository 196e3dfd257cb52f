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
    canonical: str = "closed",
) -> dict[str, float]:
    """Run one stage's command on scans in one process; give the CPU seconds of each scan, imports not counted."""
    command = [sys.executable, "-m", f"pipelines.{stage}", "--results", str(results)]
    if stage == "ingest":
        command += ["--table", str(table), "--canonical", canonical]
    if STAGES[stage].uses_template:
        command += ["--template", str(template)]
    done = subprocess.run([*command, *scan_ids], stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the stage {stage} ended with {done.returncode}: {done.stderr[-2000:]}")
    return {scan_id: float(cpu_s) for scan_id, cpu_s in _CPU.findall(done.stderr)}


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
    done = subprocess.run([*command, scan_id], stderr=subprocess.PIPE, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"the stage {stage} ended with {done.returncode}: {done.stderr[-2000:]}")
    own = dict.fromkeys(
        [] if "nothing to do" in done.stderr else [stage], sum(float(m[1]) for m in _CPU.findall(done.stderr))
    )
    return own | {name: float(cpu_s) for _, name, cpu_s in _AHEAD.findall(done.stderr)}


def run_stages(
    stages: Iterable[str],
    results: Path,
    scan_ids: Sequence[str],
    *,
    table: Path,
    template: Path | None = None,
    canonical: str = "closed",
) -> dict[str, float]:
    """Run several stages; give the CPU seconds of each scan over all of them, imports not counted."""
    total = dict.fromkeys(scan_ids, 0.0)
    for stage in stages:
        print(f"{stage} on {len(scan_ids)} scans ...", file=sys.stderr, flush=True)
        found = run_stage(stage, results, scan_ids, table=table, template=template, canonical=canonical)
        for scan_id, cpu_s in found.items():
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
