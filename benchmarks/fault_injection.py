"""A real run that is killed, starved of disk and started twice: does it end like one that was left in peace?

    python -m benchmarks.fault_injection --template FOLDER --out FOLDER

Makes synthetic scans, adds damaged ones and the real ones below NPHM_SHARED, and runs the workflow twice: once in
peace, and once while workers and Snakemake itself are killed with SIGKILL at random, the disk fills up, the results
become read-only, and a second Snakemake is started beside the first. After every fault the same command is given
again, as a user would. In the end all records and artifacts are compared, byte by byte. Settings are cheap ones
(`CHEAP`): what is tested is the bookkeeping. Full and read-only disks need the right to mount a file system in memory;
without it they are left out and the report says so.
"""

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.fault_run import Disk, Run, children_cpu_s
from benchmarks.real_scans import SOURCES
from nphm_core.io.scan_table import read_scan_table
from nphm_core.records import describe_artifact, hidden_record, read_record, without_seen
from nphm_core.stages import STAGES

CHEAP = """\
subdivide: {levels: 1}
flame_fit: {n_identity: 40, n_expression: 40, n_iterations: 14}
sample_sdf: {n_surface: 20000, n_near: 20000, n_far: 5000}
evaluate: {picture_pixels: 128}
"""
_COLUMNS = ("subject", "expression", "neutral", "path", "unit", "texture", "texture_origin")


def make_scans(out: Path, template: Path, n_subjects: int, n_expressions: int, real: Path | None) -> Path:
    """Write the synthetic and the damaged scans and the table of all; what is there already is kept."""
    from pipelines.demo_scans import main as make_demo_scans

    made, table = out / "scans", out / "scans.tsv"
    if not (made / "scans.tsv").is_file():
        counts = ["--subjects", str(n_subjects), "--expressions", str(n_expressions)]
        if make_demo_scans(["--out", str(made), "--template", str(template), *counts]):
            raise RuntimeError("the synthetic scans could not be made")
    rows = [
        (row.subject, row.expression, row.neutral, row.path.resolve(), row.unit)
        for row in read_scan_table(made / "scans.tsv").rows
    ]
    rows += [(name, "rest", "closed", path, "") for name, path in damaged_scans(made).items()]
    if real is not None:
        for source in SOURCES:
            texture = real / source.texture if source.texture else ""
            rows.append((source.name, "raw", "closed", real / source.path, "", texture, source.texture_origin))
        rows += [(name, "raw", "closed", real / path, "") for name, path in NEGATIVE.items()]
    lines = ["\t".join(_COLUMNS), *("\t".join(map(str, row)) for row in rows)]
    table.write_text("\n".join(lines) + "\n")
    return table


NEGATIVE = {"igea": "negative/igea/igea_mesh.ply", "ct": "negative/vtk_headsq_ct/skin_yup.ply"}


def damaged_scans(folder: Path) -> dict[str, Path]:
    """Write scans that no run can use, made from a good one, and give their names and files."""
    good = next(row.path for row in read_scan_table(folder / "scans.tsv").rows if row.path.suffix == ".ply")
    data = good.read_bytes()
    contents = {"truncated": data[: len(data) * 2 // 3], "empty": b"", "noise": random.Random(0).randbytes(10_000)}
    for name, content in contents.items():
        (folder / f"{name}.ply").write_bytes(content)
    return {name: folder / f"{name}.ply" for name in (*contents, "missing")}


def run_in_peace(run: Run) -> float:
    """Run to the end, once; give the CPU seconds."""
    before = children_cpu_s()
    code = run.start().wait()
    if code != 0:
        raise RuntimeError(f"the undisturbed run ended with {code}; see {run.log}")
    return children_cpu_s() - before


def run_with_faults(run: Run, disk: Disk, options: argparse.Namespace) -> Counter[str]:
    """Run, disturb, and run again until all faults were made; then to the end. Give the count of each fault."""
    rng, made, wanted = random.Random(options.seed), Counter[str](), _wanted(options, disk)
    process = run.start()
    while +(wanted - made):
        time.sleep(rng.expovariate(1 / options.pause_s))
        if process.poll() is not None:
            # It ended, well or not, before the next fault: what is gone is made anew, so that faults find work.
            if not run.forget(rng, options.forget):
                raise RuntimeError("there is nothing left to disturb; give more scans or a shorter pause")
            process = run.start()
            continue
        left = +(wanted - made)
        kind = rng.choices(list(left), weights=list(left.values()))[0]
        if _disturb(kind, run, disk, process, rng):
            made[kind] += 1
            print(f"{sum(made.values())} of {wanted.total()} faults: {kind}", file=sys.stderr, flush=True)
        if process.poll() is not None:
            process = run.start()
    process.wait()
    for _ in range(3):
        if run.start().wait() == 0:
            return made
    raise RuntimeError(f"three runs without a fault did not end well; see {run.log}")


def _wanted(options: argparse.Namespace, disk: Disk) -> Counter[str]:
    wanted = Counter(worker=options.kills * 2 // 3, snakemake=options.kills - options.kills * 2 // 3, second=2)
    if disk.is_own:
        wanted |= Counter({"full disk": options.full_disks, "read-only": 1})
    return wanted


def _disturb(kind: str, run: Run, disk: Disk, process, rng: random.Random) -> bool:
    """Do one fault and say whether it met anything."""
    if kind == "worker":
        return run.kill_worker(rng)
    if kind == "snakemake":
        return run.kill_snakemake(process)
    if kind == "second":
        return run.start_second()
    with disk.full() if kind == "full disk" else disk.read_only():
        time.sleep(8.0)
    return True


def differences(peace: Path, disturbed: Path, scan_ids: list[str]) -> list[str]:
    """List every record and artifact that differs between two results folders, or is missing in one."""
    found = []
    for scan_id in scan_ids:
        for stage in STAGES:
            one, other = (read_record(folder, scan_id, stage) for folder in (peace, disturbed))
            where = f"{scan_id} {stage}"
            hidden = hidden_record(disturbed, scan_id, stage)
            if one is None or one != other or hidden is None or without_seen(hidden) != other:
                found.append(f"{where}: record")
                continue
            for name, facts in one["artifacts"].items():
                path = disturbed / "scans" / scan_id / name
                if not path.is_file() or describe_artifact(path) != facts:
                    found.append(f"{where}: {name}")
    return found


def leftovers(results: Path) -> list[str]:
    """List temporary files and folders that killed processes left behind."""
    return sorted(
        str(path.relative_to(results))
        for path in results.glob("scans/*/*/**/.*")
        if path.is_dir() or not (path.suffix == ".json" and path.name[1:].removesuffix(".json") in STAGES)
    )


def verdicts(results: Path, scan_ids: list[str]) -> Counter[str]:
    """Count the scans by their verdict."""
    records = (read_record(results, scan_id, "evaluate") for scan_id in scan_ids)
    return Counter(record["metrics"].get("verdict", record["status"]) if record else "none" for record in records)


def main() -> int:
    """Make the scans, run in peace, run with faults, compare; exits 1 if anything differs."""
    options = _parser().parse_args()
    out, template = Path(options.out).resolve(), Path(options.template).resolve()
    out.mkdir(parents=True, exist_ok=True)
    shared = os.environ.get("NPHM_SHARED")
    real = Path(shared).resolve() / "scans" if shared else None
    table = make_scans(out, template, options.subjects, options.expressions, real)
    scan_ids = [row.scan_id for row in read_scan_table(table).rows]
    peace = Run(out / "peace", table, template, CHEAP, options.cores)
    if not (out / "peace.json").is_file():
        cpu_s = run_in_peace(peace)
        (out / "peace.json").write_text(json.dumps({"cpu_s": round(cpu_s, 1)}))
    if options.only_peace:
        return 0
    faulty = Run(out / "faulty", table, template, CHEAP, options.cores)
    shutil.rmtree(faulty.folder, ignore_errors=True)
    faulty.prepare()
    with Disk(faulty.results, options.disk_mb) as disk:
        before = children_cpu_s()
        made = run_with_faults(faulty, disk, options)
        cpu_s = children_cpu_s() - before
        apart, left = differences(peace.results, faulty.results, scan_ids), leftovers(faulty.results)
        print(f"\n{len(scan_ids)} scans: {dict(verdicts(faulty.results, scan_ids))}")
        print(f"faults: {dict(made)}; {faulty.n_starts} starts of Snakemake, {faulty.n_refused} refused as the second")
        print(f"CPU seconds: {json.loads((out / 'peace.json').read_text())['cpu_s']} in peace, {cpu_s:.1f} with faults")
        print(f"{len(apart)} differences in records and artifacts, {len(left)} temporary files left")
        print("\n".join([*apart[:20], *left[:20]]))
    return 1 if apart or left else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fault_injection", description=__doc__)
    parser.add_argument("--template", required=True, help="folder of the template")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--subjects", type=int, default=20, help="synthetic subjects (20)")
    parser.add_argument("--expressions", type=int, default=3, help="scans of each (3)")
    parser.add_argument("--kills", type=int, default=33, help="processes to kill, a third of them Snakemake (33)")
    parser.add_argument("--full-disks", type=int, default=2, help="times the disk is full (2)")
    parser.add_argument("--disk-mb", type=int, default=4000, help="size of the file system in memory (4000)")
    parser.add_argument("--pause-s", type=float, default=12.0, help="mean time between two faults (12)")
    parser.add_argument("--forget", type=int, default=10, help="scans deleted when all are done too early (10)")
    parser.add_argument("--cores", type=int, default=2, help="cores of each run (2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults (0)")
    parser.add_argument("--only-peace", action="store_true", help="stop after the undisturbed run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
