"""Simulate large runs from measured costs: hours, disk, memory, and what is short first.

    python -m benchmarks.simulation

Jobs are handed to free cores in order, as the greedy scheduler does; a job is a unit of up to `scans_per_job` scans of
one subject, whose first stage makes all that follows. The main process hands out one job at a time and takes time
for each, so it can be what is short. Every number that is fed in is named in `Costs`, with where it was measured.
"""

import argparse
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.stage_runs import print_table
from nphm_core.stages import STAGES
from workflow.forecast import COSTS


@dataclass(frozen=True)
class Costs:
    """What things cost; CPU seconds are those of one core of an AMD EPYC."""

    scan_s: float = 8.2
    """All stages of one scan in a warm process (6 demo scans; `benchmarks.overhead` measures it)."""
    scan_gb: float = sum(megabytes for _, megabytes in COSTS.values()) / 1000
    """Results of one scan."""
    job_start_s: float = 1.5
    """A process that imports what the stages need, once for a unit."""
    current_job_s: float = 0.13
    """Each of the unit's ten other jobs, which find everything made."""
    choose_s: float = 0.05
    """Snakemake's main process, for each finished job: books, and choice of the next (greedy, subsample 200)."""
    plan_scan_s: float = 0.0011
    """Planning of one scan of which all is to be done; 5,200 scans: 5 to 8 s."""
    plan_start_s: float = 2.0
    scan_memory_gb: float = 1.0
    """Peak of a process that works on a scan of up to 400,000 triangles."""
    submission_s: float = 12.0
    """On SLURM, for each submission: two starts of Snakemake on the node."""
    poll_s: float = 60.0
    """On SLURM: until the end of a submission is seen."""
    slowdown: float = 1.4
    """Of each core where all cores of a node work: memory bandwidth and clock. Assumed, not measured."""


@dataclass(frozen=True)
class Machine:
    """Where a run takes place."""

    name: str
    cores: int
    memory_gb: float
    is_slurm: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run comes to."""

    hours: float
    core_hours: float
    disk_gb: float
    n_jobs: int
    n_submissions: int
    main_busy_share: float
    """Of the run's time, how much the main process is at work; near 1 it is what is short."""
    memory_gb: float


def simulate(n_scans: int, n_subjects: int, machine: Machine, costs: Costs, at_once: int = 25) -> Outcome:
    """Hand all units to the machine's cores, and give what that comes to."""
    per_subject = [n_scans // n_subjects + (k < n_scans % n_subjects) for k in range(n_subjects)]
    units = [min(at_once, n - first) for n in per_subject for first in range(0, n, at_once)]
    start_s = costs.job_start_s + (len(STAGES) - 1) * costs.current_job_s
    work = [start_s + n * costs.scan_s * costs.slowdown for n in units]
    # On SLURM the unit's other jobs are in the same submission: the main process sees one.
    n_seen = 1 if machine.is_slurm else len(STAGES)
    extra_s = costs.submission_s if machine.is_slurm else 0.0
    plan_s = costs.plan_start_s + n_scans * costs.plan_scan_s
    choose_s = n_seen * costs.choose_s
    end_s = _list_schedule([seconds + extra_s for seconds in work], machine.cores, choose_s)
    wall_s = plan_s + end_s + (costs.poll_s if machine.is_slurm else 0.0)
    busy_s = plan_s + choose_s * len(units)
    cores = min(machine.cores, len(units))
    return Outcome(
        wall_s / 3600,
        (sum(work) + extra_s * len(units) + busy_s) / 3600,
        n_scans * costs.scan_gb,
        len(units) * len(STAGES) + 3,
        n_subjects + 1 if machine.is_slurm else 0,
        busy_s / wall_s,
        cores * costs.scan_memory_gb,
    )


def _list_schedule(seconds: Sequence[float], n_cores: int, choose_s: float) -> float:
    """Give the end of the last job, each given to the first free core, one after the other by one main process."""
    free, chosen = [0.0] * n_cores, 0.0
    heapq.heapify(free)
    end = 0.0
    for duration in seconds:
        chosen = max(chosen, heapq.heappop(free)) + choose_s
        heapq.heappush(free, chosen + duration)
        end = max(end, chosen + duration)
    return end


def main() -> None:
    """Run the simulation."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    node, cluster = Machine("1 machine, 64 cores", 64, 256), Machine("SLURM, 512 cores", 512, 2048, is_slurm=True)
    costs = Costs()
    cases = [
        ("5,200 scans", 5_200, 255, node, costs, 25),
        ("the same, one scan a job", 5_200, 255, node, costs, 1),
        ("5,200 scans of 3 million triangles", 5_200, 255, node, replace(costs, scan_s=45.0, scan_memory_gb=4.0), 25),
        ("5,200 scans", 5_200, 255, cluster, costs, 25),
        ("100,000 scans", 100_000, 5_000, node, costs, 25),
        ("100,000 scans", 100_000, 5_000, cluster, costs, 25),
    ]
    rows = []
    for name, n_scans, n_subjects, machine, of, at_once in cases:
        found = simulate(n_scans, n_subjects, machine, of, at_once)
        rows.append(
            (
                name,
                machine.name,
                f"{found.hours:.2f}",
                f"{found.core_hours:.0f}",
                f"{found.disk_gb:,.0f}",
                f"{found.memory_gb:.0f} of {machine.memory_gb:.0f}",
                f"{found.n_jobs:,}",
                f"{found.n_submissions:,}",
                f"{found.main_busy_share:.0%}",
            )
        )
    header = ("run", "where", "hours", "core hours", "disk GB", "memory GB", "jobs", "submissions", "main process busy")
    print_table(header, rows)


if __name__ == "__main__":
    main()
