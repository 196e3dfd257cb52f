"""Feed damaged and hostile files to every reader and tell what they could not take.

    python -m benchmarks.fuzz --out FOLDER [--seconds 60] [--target NAME ...] [--engine coverage]

Each reader runs in a process of its own with limits on memory and time, and starts from small good files. The engine
`coverage` (the extra `fuzz`: Atheris) keeps what reaches new lines of this project and changes that further; `mutation`
changes the good files only, needs nothing, and is what the tests use. Kernels are run as Python, so that an index out
of its array is an exception. Findings are written below FOLDER with their files; exits 1 if there are any.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.fuzz_process import ENGINES
from benchmarks.fuzz_targets import LIMIT_S, all_targets
from benchmarks.stage_runs import print_table


def fuzz(name: str, engine: str, seconds: float, out: Path, seed: int) -> dict:
    """Fuzz one reader in a process of its own; give inputs tried, edges of code reached, and findings."""
    folder = out / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.fuzz_process", name, engine, str(seconds), str(folder), str(seed)]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("w") as log:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    state = json.loads((folder / "state.json").read_text()) if (folder / "state.json").is_file() else {}
    findings = state.get("findings", {})
    if done.returncode not in (0, 77) and not findings:
        findings = {f"the process ended with {done.returncode}": "see log.txt"}
    reached = re.findall(r"cov: (\d+)", (folder / "log.txt").read_text(errors="replace"))
    counts = {"inputs": state.get("inputs", 0), "good": state.get("good", 0), "edges": reached[-1] if reached else "-"}
    return counts | {"findings": findings}


def main() -> int:
    """Fuzz all readers, or the named ones, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each reader (60)")
    parser.add_argument("--target", nargs="*", help="readers to fuzz; all without")
    parser.add_argument("--engine", choices=ENGINES, default="coverage", help="what makes the inputs (coverage)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the changes (0)")
    options = parser.parse_args()
    rows, n_found = [], 0
    for target in all_targets():
        if options.target and target.name not in options.target:
            continue
        done = fuzz(target.name, options.engine, options.seconds, options.out, options.seed)
        counts = (f"{done['inputs']:,}", f"{done['good']:,}", done["edges"], len(done["findings"]))
        rows.append((target.name, *counts))
        n_found += len(done["findings"])
        print(f"{target.name}: {done['inputs']} inputs", *done["findings"], sep="\n  ", file=sys.stderr, flush=True)
    print_table(("reader", "inputs", "read well", "edges reached", f"findings (limit {LIMIT_S:g} s)"), rows)
    return 1 if n_found else 0


if __name__ == "__main__":
    sys.exit(main())
