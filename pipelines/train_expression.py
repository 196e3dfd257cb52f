"""Train an expression field, and the codes of all scans, on pairs of registered meshes; the identity stays as it is.

The folder holds the whole model, the log `train.jsonl`, and the states that a killed run goes on from. Start it with
`torchrun` to use several GPUs: `torchrun --nproc-per-node=4 -m pipelines.train_expression ...`.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nphm_core.config import TrainExpressionConfig, TrainIdentityConfig, read_section
from nphm_core.errors import TrainingError
from nphm_core.io.meshes import read_mesh
from nphm_core.io.training_set import TrainingRow
from nphm_core.records import scan_folder
from nphm_core.template.template import topology_hash
from pipelines.training_inputs import (
    TrainingScans,
    identity_samples,
    read_held_out,
    run_of,
    run_training,
    training_facts,
    training_parser,
    training_scans,
    write_held_out,
)

if TYPE_CHECKING:
    import torch

    from nphm_core.models.neural_head import NeuralHead
    from nphm_core.template.template import Template
    from nphm_core.training.pairs import PairSamples
    from nphm_core.training.train_expression import HeldOutScans, JointData

log = logging.getLogger("pipelines.train_expression")

STAGE = "train_expression"


def train(options: argparse.Namespace, settings: TrainExpressionConfig, device: "torch.device") -> None:
    """Read the registered meshes, train, and write the model's folder."""
    from nphm_core.models.checkpoint import codes_as_numpy, from_pretrained, write_checkpoint
    from nphm_core.template.template import read_template
    from nphm_core.training.processes import Processes
    from nphm_core.training.train_expression import train_expression

    scans = training_scans(options)
    template = read_template(options.template)
    head = from_pretrained(options.identity, template_hash=template.hash)
    pairs = read_pairs(scans.train, head.subjects, options, device)
    trained = train_expression(
        head,
        pairs,
        settings,
        seed=options.seed,
        validation=_held_out(scans, head, options, device),
        initial=None if options.initial is None else from_pretrained(options.initial, template_hash=template.hash),
        joint=_joint(scans, head, template, options, device) if settings.joint_steps else None,
        run=run_of(options, STAGE, scans.key),
    )
    if Processes.current().is_first:
        write_held_out(options.out, trained.held_out_scans, codes_as_numpy(trained.held_out_codes))
        write_checkpoint(options.out, trained.head, training_facts(options, STAGE, settings, scans, template))
        print(options.out)


def read_pairs(
    rows: Sequence[TrainingRow], subjects: Sequence[str], options: argparse.Namespace, device: "torch.device"
) -> "PairSamples":
    """Read the registered meshes of the scans of some subjects; scans of others are left out, with a warning."""
    from nphm_core.training.pairs import PairSamples, RegisteredPair

    row_of = {subject: row for row, subject in enumerate(subjects)}
    used = [row for row in rows if row.subject in row_of]
    for row in rows:
        if row.subject not in row_of:
            log.warning("left out: %s: the identity was not trained on its subject", row.scan_id)
    if not used:
        raise TrainingError(
            f"none of {len(rows)} scans is of a subject that the identity was trained on; expected most of them to be. "
            "Train the identity on the same training set."
        )
    folders = [scan_folder(options.results, row.scan_id) for row in used]
    # All registered meshes have the topology of any one of them; each file checks it.
    mesh = read_mesh(folders[0] / "registered.ply")
    topology = topology_hash(mesh.n_vertices, mesh.faces)
    files = (path / "samples_delta.safetensors" for path in folders)
    return PairSamples(
        [row.scan_id for row in used],
        np.array([row_of[row.subject] for row in used]),
        (RegisteredPair.from_file(path, mesh.faces, mesh.n_vertices, topology=topology) for path in files),
        device=device,
        max_megabytes=options.max_memory_mb,
    )


def _held_out(
    scans: TrainingScans, head: "NeuralHead", options: argparse.Namespace, device: "torch.device"
) -> "HeldOutScans | None":
    """Give the scans of subjects that are held out, as far as the first stage has found codes for these."""
    import torch

    from nphm_core.training.train_expression import HeldOutScans

    names, codes = read_held_out(Path(options.identity))
    known = dict(zip(head.subjects, head.identity_codes, strict=True))
    known |= dict(zip(names, torch.from_numpy(codes), strict=True))
    rows = [row for row in scans.held_out if row.subject in known]
    if not rows:
        return None
    subjects = list(dict.fromkeys(row.subject for row in rows))
    pairs = read_pairs(rows, subjects, options, device)
    return HeldOutScans(pairs, torch.stack([known[subject] for subject in subjects]))


def _joint(
    scans: TrainingScans,
    head: "NeuralHead",
    template: "Template",
    options: argparse.Namespace,
    device: "torch.device",
) -> "JointData":
    """Read the samples of the subjects that the identity was trained on, and the settings it was trained with."""
    from nphm_core.training.train_expression import JointData

    neutrals = {row.subject: row for row in (*scans.train, *scans.held_out) if row.canonical}
    missing = [subject for subject in head.subjects if subject not in neutrals]
    if missing or "train_identity.settings" not in head.facts:
        raise TrainingError(
            f"joint steps need the samples of all subjects that the identity was trained on, and its settings; "
            f"{len(missing)} subjects have none now. Train the identity again on this training set, or set "
            f"joint_steps to 0. Model {options.identity}"
        )
    settings = read_section(TrainIdentityConfig, head.facts["train_identity.settings"], "train_identity")
    rows = [neutrals[subject] for subject in head.subjects]
    return JointData(identity_samples(rows, options.results, template, device, options.max_memory_mb), settings)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; give the exit code."""
    parser = training_parser(STAGE, __doc__)
    parser.add_argument("--identity", required=True, type=Path, help="folder that `pipelines.train_identity` wrote")
    return run_training(STAGE, TrainExpressionConfig, train, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
