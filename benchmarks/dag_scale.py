"""Measure what planning costs with 5,200 scans: the real rules, settings and checks; stages that do next to nothing.

    python -m benchmarks.dag_scale --work /tmp/scale

Every scan is first brought through all stages (in one process, by the commands' own code), so that everything counts
as current. Then Snakemake is started: with nothing to do, with 100 scans whose intermediate files were deleted (up to
its first job, where it is stopped), and with one setting of `arap` changed; each also with the same rules without
these measures (`NPHM_WHOLE_PLAN=1`, `scans_per_job: 1`). CPU seconds and memory are those of Snakemake's main process.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stage_runs import children_cpu_s, print_table
from nphm_core.config import Config
from nphm_core.records import template_folder
from tests.workflow.runs import StandIns, put_back
from workflow.units import AT_ONCE

_INTERMEDIATE = ("scan.ply", "views.npz", "landmarks3d.json", "flame.npz", "subdivided.ply", "scan_closed.ply")
_MAKE = """
import argparse, importlib, sys
from pathlib import Path
from nphm_core import durable
durable.sync = lambda path: None
from nphm_core import records
from nphm_core.config import Config
from nphm_core.io.scan_table import read_scan_table, row_facts
from nphm_core.stages import STAGES, record_path
from pipelines.stage_command import run_stage
from workflow.units import Units

settings, table = Config(), read_scan_table(Path("scans.tsv"))
units = Units({row.scan_id: row_facts(table, row.scan_id, "open") for row in table.rows}, "results", int(sys.argv[2]))
for name, stage in STAGES.items():
    module = importlib.import_module(f"pipelines.{name}")
    options = {"results": "results", "seed": 0, "template": sys.argv[1], "table": "scans.tsv", "canonical": "open"}
    options = argparse.Namespace(**options, verdicts=None)
    for unit, scans in units.scans.items():
        for scan in scans:
            run_stage(stage, module.process, scan, getattr(settings, name), options)
        if unit in units.several:
            records.write_unit(Path(record_path("results", unit, name)), Path("results"), name, scans)
"""


@dataclass(frozen=True)
class Start:
    """One start of Snakemake."""

    cpu_s: float
    wall_s: float
    peak_mb: float
    jobs: dict[str, int]
    """Planned jobs by rule."""


def make_clone(folder: Path, n_subjects: int, n_scans: int) -> StandIns:
    """Make a clone of the workflow with a table of scans; each subject has about as many."""
    folder.mkdir(parents=True)
    clone = StandIns(Path(__file__).parents[1], folder)
    (folder / "files").mkdir()
    lines = ["subject\texpression\tneutral\tpath"]
    for k in range(n_scans):
        subject, expression = k * n_subjects // n_scans, k
        first = k == 0 or (k - 1) * n_subjects // n_scans != subject
        second = k > 0 and not first and (k == 1 or (k - 2) * n_subjects // n_scans != subject)
        neutral = "closed" if first else "open" if second else ""
        (folder / "files" / f"{k}.ply").write_text("a face")
        lines.append(f"S{subject:03d}\te{expression}\t{neutral}\tfiles/{k}.ply")
    (folder / "scans.tsv").write_text("\n".join(lines) + "\n")
    return clone


def make_results(clone: StandIns, scans_per_job: int) -> None:
    """Bring all scans through all stages."""
    template = Path(template_folder(str(clone.folder / ".cache"), Config().template.model_dump(mode="json")))
    template.mkdir(parents=True)
    (template / "template.json").write_text("{}")
    command = [sys.executable, "-c", _MAKE, str(template), str(scans_per_job)]
    subprocess.run(command, cwd=clone.folder, check=True, env=_environment(clone))


def _environment(clone: StandIns) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(clone.folder)}


def start(clone: StandIns, *options: str, whole: bool, until_first_job: bool = False) -> Start:
    """Start Snakemake; give what its main process cost, up to its end or its first job."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nocolor", "--keep-going", *options]
    environment = _environment(clone) | ({"NPHM_WHOLE_PLAN": "1"} if whole else {})
    how = {"cwd": clone.folder, "env": environment, "text": True, "start_new_session": True}
    how |= {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    begin, lines = time.monotonic(), []
    with subprocess.Popen(command, **how) as main:
        for line in main.stdout:
            lines.append(line)
            if until_first_job and re.match(r"(Job \d+:|(local)?rule \w+:)", line):
                os.killpg(main.pid, signal.SIGKILL)
                break
        _, _, usage = os.wait4(main.pid, 0)
        main.returncode = 0
    jobs = re.findall(r"^(\w+) +(\d+)$", "".join(lines).split("\ntotal ")[0], re.MULTILINE)
    wall_s, cpu_s = time.monotonic() - begin, usage.ru_utime + usage.ru_stime
    return Start(cpu_s, wall_s, usage.ru_maxrss / 1024, {name: int(n) for name, n in jobs})


def damage(clone: StandIns, n_scans: int) -> None:
    """Delete intermediate files of scans."""
    rows = [line.split("\t") for line in (clone.folder / "scans.tsv").read_text().splitlines()[1:]]
    for subject, expression, *_ in random.Random(0).sample(rows, n_scans):
        for name in _INTERMEDIATE:
            clone.artifact(f"{subject}/{expression}", name).unlink()


def measure(clone: StandIns, *, whole: bool) -> dict[str, Start]:
    """Start Snakemake where nothing is to be done, and with a changed setting."""
    base = "scans_per_job: 1\n" if whole else ""
    clone.set_config(base)
    # The table and the verdict are made at the first.
    found = {"after a run": start(clone, whole=whole), "nothing to do": start(clone, whole=whole)}
    clone.set_config(base + "arap:\n  stiffness_end: 0.07\n")
    found["arap changed, dry run"] = start(clone, "--dry-run", whole=whole)
    clone.set_config(base)
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that does not exist yet")
    parser.add_argument("--scans", type=int, default=5200)
    parser.add_argument("--subjects", type=int, default=255)
    parser.add_argument("--damaged", type=int, default=100, help="scans whose intermediate files are deleted")
    options = parser.parse_args()
    clone = make_clone(options.work, options.subjects, options.scans)
    make_results(clone, AT_ONCE)
    print(f"{options.scans} scans made in {children_cpu_s():.0f} CPU seconds", flush=True)
    measured = {whole: measure(clone, whole=whole) for whole in (False, True)}
    # So that the seals are those of the layout that follows.
    start(clone, whole=False)
    # Stand-ins are small, so this is the cost without bytes.
    put_back(clone.folder / "results")
    for name in ("results restored", "once more"):
        found = start(clone, whole=False)
        print(f"{name}: {found.cpu_s:.1f} CPU s, {found.wall_s:.1f} s wall, {found.peak_mb:.0f} MB, jobs {found.jobs}")
    damage(clone, options.damaged)
    for whole in (False, True):
        clone.set_config("scans_per_job: 1\n" if whole else "")
        lost = start(clone, whole=whole, until_first_job=True)
        measured[whole][f"{options.damaged} scans damaged, until the first job"] = lost
        start(clone, "--unlock", whole=whole)
    rows = [
        (
            name,
            *(f"{getattr(found, part):.1f}" for part in ("cpu_s", "wall_s", "peak_mb")),
            *(f"{getattr(plain, part):.1f}" for part in ("cpu_s", "wall_s", "peak_mb")),
            f"{plain.cpu_s / found.cpu_s:.1f}",
        )
        for name, found in measured[False].items()
        for plain in [measured[True][name]]
    ]
    print_table(("start", "CPU s", "wall s", "MB", "plain CPU s", "plain wall s", "plain MB", "ratio"), rows)
    for name, found in measured[False].items():
        print(f"{name}: jobs {found.jobs}; plain {measured[True][name].jobs}")


if __name__ == "__main__":
    main()
