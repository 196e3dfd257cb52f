"""How a step of the identity stage scales over the GPUs of one host.

    python -m benchmarks.scaling [--processes 1 2] [--device cuda] [--kernel plain] [--batch 32] [--steps 60]

Each number of processes is started by `torchrun`, one a GPU, and trains on made-up heads of real size: once with the
same batch shared out (strong), once with a batch that grows with the processes (weak). A step ends when every process
has taken it; the medians are of the first process. `--device cpu` runs the same over gloo, to see that it runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from benchmarks.stage_runs import print_table

_MARK = "scaling: "


def measure(options: argparse.Namespace) -> None:
    """Time steps as one of several processes; the first prints them."""
    import torch

    from benchmarks.made_heads import identity_trainer
    from nphm_core.config import IdentityModelConfig, TrainIdentityConfig
    from nphm_core.training.loop import matrix_precision
    from nphm_core.training.processes import Processes
    from pipelines.training_inputs import training_device

    with training_device(options.device) as device:
        processes, found = Processes.current(), {}
        for how, batch in (("strong", options.batch), ("weak", options.batch * processes.count)):
            settings = TrainIdentityConfig(
                model=IdentityModelConfig(kernel=options.kernel), precision="tf32", batch_subjects=batch
            )
            trainer = identity_trainer(settings, device, n_subjects=max(64, batch))
            times = []
            with matrix_precision("tf32"):
                for step in range(options.warm + options.steps):
                    started = time.perf_counter()
                    trainer.step(step)
                    if device.type == "cuda":
                        torch.cuda.synchronize()
                    times.append(time.perf_counter() - started)
                    processes.wait()
            found[how] = {"batch": batch, "ms": 1000 * statistics.median(times[options.warm :])}
        if processes.is_first:
            name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
            print(_MARK + json.dumps({"device": name, "steps": found}), flush=True)


def started(count: int, options: argparse.Namespace) -> dict:
    """Start the processes and give what the first one found."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command += ["-m", "benchmarks.scaling", "--device", options.device, "--kernel", options.kernel]
    command += ["--batch", str(options.batch), "--steps", str(options.steps), "--warm", str(options.warm)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not lines:
        raise RuntimeError(f"{count} processes ended with {done.returncode}; what they printed is above")
    return json.loads(lines[-1].removeprefix(_MARK))


def main() -> None:
    """Start each number of processes and print the table."""
    options = _parser().parse_args()
    if "WORLD_SIZE" in os.environ:
        measure(options)
        return
    rows, alone = [], 0.0
    for count in options.processes:
        found = started(count, options)
        for how, step in found["steps"].items():
            rate = step["batch"] / step["ms"]
            alone = alone or rate / count
            facts = (count, how, step["batch"], f"{step['ms']:.1f}", f"{1000 * rate:.0f}")
            rows.append((*facts, f"{rate / alone:.2f}", f"{rate / alone / count:.2f}"))
    print(f"{found['device']}, kernel {options.kernel}, TF32 where there is")
    print_table(("processes", "scaling", "batch", "ms a step", "subjects/s", "speed-up", "of ideal"), rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--processes", nargs="+", type=int, default=(1, 2), help="numbers of processes, 1 first (1 2)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--kernel", choices=("plain", "fused"), default="plain", help="arithmetic (plain)")
    parser.add_argument("--batch", type=int, default=32, help="subjects in a step of one process (32)")
    parser.add_argument("--steps", type=int, default=60, help="steps timed (60)")
    parser.add_argument("--warm", type=int, default=10, help="steps before them (10)")
    return parser


if __name__ == "__main__":
    main()
