"""Train an identity field, and the codes of all subjects, on the samples of their canonical neutrals.

The folder holds the model, the log `train.jsonl`, and the states that a killed run goes on from. Start it with
`torchrun` to use several GPUs: `torchrun --nproc-per-node=4 -m pipelines.train_identity ...`.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from nphm_core.config import TrainIdentityConfig
from nphm_core.io.training_set import TrainingRow
from pipelines.training_inputs import (
    identity_samples,
    run_of,
    run_training,
    training_facts,
    training_parser,
    training_scans,
    write_held_out,
)

if TYPE_CHECKING:
    import torch

STAGE = "train_identity"


def train(options: argparse.Namespace, settings: TrainIdentityConfig, device: "torch.device") -> None:
    """Read the samples, train, and write the model's folder."""
    from nphm_core.models.checkpoint import codes_as_numpy, from_pretrained, write_checkpoint
    from nphm_core.template.template import read_template
    from nphm_core.training.processes import Processes
    from nphm_core.training.train_identity import train_identity

    scans = training_scans(options, settings.validation_subjects)
    template = read_template(options.template)
    neutrals, held_out = canonical(scans.train), canonical(scans.held_out)
    read = [options.results, template, device, options.max_memory_mb]
    trained = train_identity(
        identity_samples(neutrals, *read),
        settings,
        seed=options.seed,
        validation=identity_samples(held_out, *read) if held_out else None,
        initial=None if options.initial is None else from_pretrained(options.initial, template_hash=template.hash),
        template_hash=template.hash,
        n_ambient=options.n_ambient,
        run=run_of(options, STAGE, scans.key),
    )
    if Processes.current().is_first:
        write_held_out(options.out, trained.held_out_subjects, codes_as_numpy(trained.held_out_codes))
        write_checkpoint(options.out, trained.head, training_facts(options, STAGE, settings, scans, template))
        print(options.out)


def canonical(rows: tuple[TrainingRow, ...]) -> list[TrainingRow]:
    """Give the scans that show their subjects in the canonical expression."""
    return [row for row in rows if row.canonical]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; give the exit code."""
    parser = training_parser(STAGE, __doc__)
    parser.add_argument(
        "--n-ambient",
        type=int,
        default=0,
        help="ambient coordinates of the field: those of a backward expression field",
    )
    return run_training(STAGE, TrainIdentityConfig, train, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
