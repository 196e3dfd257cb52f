"""Measure what a run costs beside the stages' own work: compute seconds of the stages over all CPU seconds of the run.

    python -m benchmarks.overhead --work /tmp/overhead --subjects 2 --expressions 6

Makes synthetic scans, brings them through all stages by the workflow, with all scans of a subject in one job, and
compares the CPU seconds that the stages noted in each scan's provenance.json with those of Snakemake and all its
children. What a stage loads at its first call in a process is counted as overhead: the excess of a job's first scan
over the median of the job's scans.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.stage_runs import children_cpu_s, print_table
from nphm_core.io.scan_table import read_scan_table
from nphm_core.provenance import read_provenance
from nphm_core.stages import STAGES

_ROOT = Path(__file__).parents[1]


def stage_seconds(results: Path, subjects: dict[str, list[str]], stage: str) -> tuple[float, float]:
    """Give a stage's CPU seconds over all scans, and what of it was spent on loading."""
    total = loading = 0.0
    for scans in subjects.values():
        seconds = [read_provenance(results, scan)["stages"][stage]["cpu_s"] for scan in scans]
        total += sum(seconds)
        if len(seconds) > 2:
            loading += max(0.0, max(seconds) - statistics.median(seconds))
    return total, loading


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that does not exist yet")
    parser.add_argument("--subjects", type=int, default=2)
    parser.add_argument("--expressions", type=int, default=6)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--scans-per-job", type=int, default=25)
    parser.add_argument("--cache", type=Path, default=_ROOT / ".cache")
    options = parser.parse_args()
    demo, results = options.work / "demo", options.work / "results"
    made = ["--subjects", options.subjects, "--expressions", options.expressions, "--cache", options.cache]
    subprocess.run([sys.executable, "-m", "pipelines.demo_scans", *map(str, made), "--out", demo], check=True)
    before = children_cpu_s()
    config = [f"scans={demo}/scans.tsv", f"results={results}", f"cache={options.cache}"]
    command = ["snakemake", "--cores", str(options.cores), "--nocolor", "--config", *config]
    subprocess.run([sys.executable, "-m", *command, f"scans_per_job={options.scans_per_job}"], cwd=_ROOT, check=True)
    total_s = children_cpu_s() - before
    subjects: dict[str, list[str]] = {}
    for row in read_scan_table(demo / "scans.tsv").rows:
        subjects.setdefault(row.subject, []).append(row.scan_id)
    seconds = {stage: stage_seconds(results, subjects, stage) for stage in STAGES}
    print_table(("stage", "CPU s", "of it loading"), [(n, f"{a:.1f}", f"{b:.1f}") for n, (a, b) in seconds.items()])
    noted_s, loading_s = (sum(part) for part in zip(*seconds.values(), strict=True))
    print(f"whole run: {total_s:.1f} CPU s; noted by the stages: {noted_s:.1f} s ({noted_s / total_s:.3f})")
    print(f"without what they load at first: {noted_s - loading_s:.1f} s ({(noted_s - loading_s) / total_s:.3f})")


if __name__ == "__main__":
    main()
