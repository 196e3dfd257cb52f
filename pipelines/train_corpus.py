"""Train a neural head model on a corpus of synthetic people, both stages: the model that comes with the project.

    python -m pipelines.demo_corpus make --template FOLDER --train 300 --test 20 --expressions 20 --out corpus
    python -m pipelines.train_corpus --corpus corpus --out model --device cuda

The corpus's test subjects are held out; their losses are in the log `train.jsonl`. A killed run goes on when it
is started again; `torchrun --nproc-per-node=2 -m pipelines.train_corpus ...` uses two GPUs.
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from nphm_core.config import TrainExpressionConfig, TrainIdentityConfig, read_section
from nphm_core.errors import NphmError
from pipelines.training_inputs import STATES, training_device

log = logging.getLogger("pipelines.train_corpus")

IDENTITY_STEPS, EXPRESSION_STEPS = 10_000, 6_000


def main(arguments: list[str] | None = None) -> int:
    """Train, write the model's folder; give the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    started = time.monotonic()
    try:
        train(options)
    except NphmError as error:
        log.error("%s", error)
        return 1
    log.info("took %.1f s", time.monotonic() - started)
    print(options.out)
    return 0


def train(options: argparse.Namespace) -> None:
    """Train both stages."""
    from nphm_core.models.checkpoint import write_checkpoint
    from nphm_core.synthetic.corpus_folder import Corpus
    from nphm_core.training.journal import standard_hooks
    from nphm_core.training.loop import Run
    from nphm_core.training.processes import Processes
    from nphm_core.training.train_corpus import CorpusSettings, train_on_corpus

    corpus, settings = Corpus(options.corpus), CorpusSettings(*stage_settings(options), seed=options.seed)
    with training_device(options.device) as device:
        is_first = Processes.current().is_first
        hooks = standard_hooks(options.out) if is_first else ()
        run = Run(states=options.out / STATES, resume=True, discard_others=not options.resume, hooks=hooks)
        head = train_on_corpus(corpus, settings, device=device, run=run, n_held_out=options.held_out)
        if is_first:
            write_checkpoint(options.out, head, half=options.half)


def stage_settings(options: argparse.Namespace) -> tuple[TrainIdentityConfig, TrainExpressionConfig]:
    """Give the settings of both stages: the defaults, shortened, and what the options change of them."""
    from nphm_core.training.train_corpus import shortened

    often = {"precision": "tf32", "checkpoint_every": 5000, "log_every": 500}
    # Exact distances are known everywhere around these heads, not only near scans.
    identity: dict[str, Any] = often | {"weight_distance": 1.0} | json.loads(options.identity)
    expression = often | json.loads(options.expression)
    return (
        shortened(read_section(TrainIdentityConfig, identity, "identity"), options.identity_steps),
        shortened(read_section(TrainExpressionConfig, expression, "expression"), options.expression_steps),
    )


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how long and how to train."""
    parser.add_argument("--identity-steps", type=int, default=IDENTITY_STEPS)
    parser.add_argument("--expression-steps", type=int, default=EXPRESSION_STEPS)
    parser.add_argument("--identity", default="{}", help="settings of the first stage to change, as JSON")
    parser.add_argument("--expression", default="{}", help="settings of the second stage to change, as JSON")
    parser.add_argument("--held-out", type=int, help="test subjects that validate; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU if it can")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.train_corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder of pipelines.demo_corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--half", action="store_true", help="store weights and codes as float16")
    parser.add_argument("--resume", action="store_true", help="refuse to start anew where the states are of others")
    add_training_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
