"""CPU seconds of every stage for one scan on one core, as the rules run them.

    python -m benchmarks.stages --template FOLDER --out FOLDER [--scan FILE] [--unit UNIT] [--triangles N]

Without `--scan`, a synthetic head of about `--triangles` triangles (300,000) is made. Counted are user and system time
of each rule's process and its children, interpreter and imports included. The first process works ahead, so the later
ones find their results made; *work* is the stage's own, in whichever process. All stages run once to compile the
kernels, as the set-up does, and then `--repeats` times, of which the best run counts: on a machine that does other
work, too, the same work takes up to half more CPU time. With `--apart`, no process works ahead. *Peak* is the largest
memory of a process of the stage, as `provenance.json` has it. The solvers are timed in one process, without imports.
"""

import argparse
import importlib
import os
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
# Python's default: what is compiled once is not compiled by every process again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import numpy as np

from benchmarks.stage_runs import children_cpu_s, print_table, run_rule, run_stage
from nphm_core.config import Config
from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.subdivision import loop_subdivision
from nphm_core.io.files import read_json
from nphm_core.io.meshes import read_mesh, read_scan
from nphm_core.io.ply import write_ply
from nphm_core.provenance import read_provenance
from nphm_core.records import scan_folder
from nphm_core.stages import STAGES
from nphm_core.work_ahead import AheadPlan
from pipelines.stage_command import Job

SCAN_ID = "one/neutral"
_SOLVERS = {"flame_fit": ("fit_flame",), "arap": ("ScanTarget", "register_arap")}


def synthetic_scan(out: Path, template: Path, n_triangles: int) -> Path:
    """Make a scan with hair, holes and noise; its front is refined until it has the size that is asked for."""
    from pipelines.demo_scans import main as make_scans

    path = out / "made" / f"scan-{n_triangles}.ply"
    if path.is_file():
        return path
    if make_scans(["--out", str(out / "made"), "--template", str(template), "--subjects", "1", "--expressions", "1"]):
        raise RuntimeError("the synthetic scan could not be made")
    mesh = read_scan(out / "made" / "scans" / "s001" / "neutral.ply")
    while mesh.n_faces + 3 <= n_triangles:
        front = np.argsort(-mesh.vertices[mesh.faces].mean(axis=1)[:, 2])
        chosen = np.zeros(mesh.n_faces, bool)
        # A triangle cut in four adds three.
        chosen[front[: (n_triangles - mesh.n_faces) // 3]] = True
        step = loop_subdivision(mesh.faces, mesh.n_vertices, chosen)
        mesh = Mesh(step.matrix @ mesh.vertices, step.faces)
        if chosen.all():
            continue
        break
    write_ply(path, mesh)
    return path


def time_stages(results: Path, table: Path, plan: AheadPlan, *, apart: bool) -> list[tuple[str, float, float, float]]:
    """Run every stage once; give the CPU seconds of its rule's process, those of its own work, and the peak in MB."""
    shutil.rmtree(results, ignore_errors=True)
    of_rule, of_work = {}, {}
    for stage in STAGES:
        before = children_cpu_s()
        if apart:
            of_work |= {stage: run_stage(stage, results, [SCAN_ID], table=table, template=Path(plan.template))[SCAN_ID]}
        else:
            of_work |= run_rule(stage, results, SCAN_ID, plan, table=table)
        of_rule[stage] = children_cpu_s() - before
        record = read_json(scan_folder(results, SCAN_ID) / "stages" / f"{stage}.json")
        if record["status"] != "ok":
            raise RuntimeError(f"the stage {stage} {record['status']}: {record['reason']}")
    made = read_provenance(results, SCAN_ID)["stages"]
    return [(stage, of_rule[stage], of_work[stage], made[stage]["peak_mb"]) for stage in STAGES]


def time_solver(stage: str, results: Path, template: Path, out: Path) -> float:
    """Give the CPU seconds of a stage's solver alone, with its search tree, as the best of three runs."""
    module = importlib.import_module(f"pipelines.{stage}")
    spent = _Stopwatch()
    for name in _SOLVERS[stage]:
        if hasattr(module, name):
            setattr(module, name, spent.around(getattr(module, name)))
    runs = []
    for _ in range(3):
        spent.seconds = 0.0
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        settings = getattr(Config(), stage)
        module.process(Job(SCAN_ID, STAGES[stage], results, out, settings, 0, template, Namespace()))
        runs.append(spent.seconds)
    return min(runs)


class _Stopwatch:
    """Adds up the CPU time of wrapped calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.process_time() - started

        return timed


def main() -> int:
    """Time everything and print the tables."""
    options = _parser().parse_args()
    out, template = Path(options.out).resolve(), Path(options.template).resolve()
    out.mkdir(parents=True, exist_ok=True)
    scan = Path(options.scan).resolve() if options.scan else synthetic_scan(out, template, options.triangles)
    table = out / "scans.tsv"
    subject, expression = SCAN_ID.split("/")
    row = f"{subject}\t{expression}\tclosed\t{scan}\t{options.unit}"
    table.write_text(f"subject\texpression\tneutral\tpath\tunit\n{row}\n")
    config = Config()
    plan = AheadPlan({name: getattr(config, name).model_dump(mode="json") for name in STAGES}, 0, str(template))
    time_stages(out / "first", table, plan, apart=options.apart)
    runs = [time_stages(out / "timed", table, plan, apart=options.apart) for _ in range(options.repeats)]
    rows = min(runs, key=lambda run: sum(row[1] for row in run))
    mesh = read_scan(scan)
    registered = read_mesh(scan_folder(out / "timed", SCAN_ID) / "registered.ply")
    print(f"\n{mesh.n_faces:,} triangles in the scan, {registered.n_vertices:,} vertices in the registered mesh\n")
    total = (sum(row[1] for row in rows), sum(row[2] for row in rows), max(row[3] for row in rows))
    cells = [
        (name, f"{rule_s:.2f}", f"{work_s:.2f}", f"{peak_mb:.0f}")
        for name, rule_s, work_s, peak_mb in [*rows, ("all", *total)]
    ]
    print_table(("stage", "CPU s of its rule", "of its work", "peak MB"), cells)
    print()
    solvers = [(stage, f"{time_solver(stage, out / 'timed', template, out / 'solver'):.2f}") for stage in _SOLVERS]
    print_table(("solver", "CPU s"), solvers)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("--template", required=True, help="folder of the template")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--scan", help="scan to use in place of a synthetic one")
    parser.add_argument("--triangles", type=int, default=300_000, help="size of the synthetic scan (300000)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs; the best counts (3)")
    parser.add_argument("--apart", action="store_true", help="every process makes its own stage only")
    parser.add_argument("--unit", default="auto", help="unit of the scan (auto)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
