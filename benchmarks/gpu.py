"""Speed of the neural model on one GPU, beside the plain PyTorch operations in the same run and the released code.

    python -m benchmarks.gpu [--parts check identity ...] [--model DIR] [--quick] [--out FILE.json]

`check` comes first: kernels against float64 on fresh random inputs. Then the table: medians on the device's clock, peak
memory, and the share of what the card can do, which is measured first (a large copy, large matrix products). Without a
model the networks have random weights, the heads are ellipsoids through the mean anchors, and errors of fits say
nothing. `curve` compares 2,000 steps of training with those in float32, and takes minutes; it runs only when named.

The columns of the released code are no measurement of this run: they were taken once on an H100 80GB with PyTorch 2.11
from the authors' code, in float32 and with TF32.
"""

import argparse
import json
import sys
import time
import traceback
from pathlib import Path

import torch

from benchmarks import gpu_fields, gpu_steps
from benchmarks.gpu_table import Bench

RELEASED = {
    "identity step, ms": (395.0, 321.0),
    "identity step, GB": (32.3, 32.3),
    "queries, M points/s": (1.74, 2.43),
    "mesh of 256 cubed, ms": (9650.0, 6910.0),
    "deformation step, ms": (11.0, 9.0),
}
PARTS = {
    "check": gpu_steps.check,
    "identity": gpu_steps.identity,
    "deformation": gpu_steps.deformation,
    "queries": gpu_fields.queries,
    "mesh": gpu_fields.meshes,
    "fit": gpu_fields.fits,
    "curve": gpu_steps.curve,
    "profile": gpu_steps.profile,
    "profile_mesh": gpu_fields.profile_mesh,
    "tune": gpu_fields.tune,
    "tune_deformation": gpu_steps.tune_deformation,
}
DEFAULT = ("check", "identity", "deformation", "queries", "mesh", "fit")


def main() -> int:
    """Run the parts, print the table."""
    options = _parser().parse_args()
    if not torch.cuda.is_available():
        print("there is no GPU that PyTorch can use; see benchmarks.cpu for processors", file=sys.stderr)
        return 1
    bench = Bench(torch.device("cuda"), quick=options.quick, model=options.model)
    bench.measure_ceilings()
    failed = []
    for name in options.parts:
        bench.say(f"-- {name}")
        started = time.perf_counter()
        try:
            PARTS[name](bench)
        except Exception:
            # One part that fails must not cost the measurements of the others.
            failed.append(name)
            bench.say(traceback.format_exc())
        torch.cuda.empty_cache()
        bench.say(f"-- {name} took {time.perf_counter() - started:.1f} s")
    bench.print_table(RELEASED)
    if options.out:
        options.out.write_text(json.dumps(bench.facts(), indent=1), encoding="utf-8")
    if failed:
        print("failed: " + " ".join(failed))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=DEFAULT, help="what to measure, in order")
    parser.add_argument("--model", type=Path, help="folder of a trained model; default: random weights")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--out", type=Path, help="file to write all numbers to")
    return parser


if __name__ == "__main__":
    sys.exit(main())
