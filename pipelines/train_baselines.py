"""Train the linear baseline (PCA) on the registered meshes of a training set.

The other baseline, NPM, is trained by `pipelines.train_identity` and `pipelines.train_expression` with one global
network. The folder holds a checkpoint like that of any model.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

import numpy as np

from nphm_core.config import TrainBaselinesConfig, read_section
from nphm_core.errors import NphmError, TrainingError
from nphm_core.io.training_set import chosen, read_training_set
from nphm_core.records import scan_folder
from pipelines.stage_command import settings_json

log = logging.getLogger("pipelines.train_baselines")

_NEVER_SEEN = ("hidden", "mouth_interior")


def train(training_set: Path, results: Path, template_folder: Path, out: Path, settings: TrainBaselinesConfig) -> None:
    """Write the checkpoint of the linear baseline."""
    from nphm_core.models.linear_head import write_linear_head
    from nphm_core.template.template import read_template
    from nphm_core.training.pca import train_linear_head
    from nphm_core.training.shape_files import displacement_shapes, neutral_shapes, sampled_template

    rows = chosen(read_training_set(training_set), "train")
    neutrals = [row for row in rows if row.canonical]
    others = [row for row in rows if not row.canonical]
    if len(neutrals) < 2:
        raise TrainingError(
            f"the training set has {len(neutrals)} subjects with a canonical neutral; expected at least two. Register "
            f"more subjects, or hold out fewer. File {training_set}"
        )
    template = read_template(template_folder)
    fine = sampled_template(_samples(results, neutrals[0].scan_id), template)
    visible = ~np.any([fine.regions[name] for name in _NEVER_SEEN], axis=0)
    head = train_linear_head(
        neutral_shapes([_samples(results, row.scan_id) for row in neutrals]),
        displacement_shapes([_samples(results, row.scan_id) for row in others]),
        fine.faces,
        settings,
        subjects=tuple(row.subject for row in neutrals),
        scans=tuple(row.scan_id for row in others),
        anchors=template.anchors,
        visible=visible,
        template_hash=template.hash,
    )
    write_linear_head(out, head, {"template": template.name, "settings": settings.model_dump(mode="json")})
    log.info(
        "%d identity and %d expression components from %d subjects and %d scans",
        head.n_identity, head.n_expression, len(neutrals), len(others),
    )  # fmt: skip


def _samples(results: Path, scan_id: str) -> Path:
    return scan_folder(results, scan_id) / "samples_delta.safetensors"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; give the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    started = time.process_time()
    try:
        settings: TrainBaselinesConfig = read_section(
            TrainBaselinesConfig, settings_json(options.settings), "train_baselines"
        )
        train(options.training_set, options.results, options.template, options.out, settings)
    except NphmError as error:
        log.error("%s", error)
        return 1
    log.info("%.1f CPU seconds", time.process_time() - started)
    print(options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.train_baselines", description=__doc__)
    parser.add_argument("--training-set", required=True, type=Path, help="table of `pipelines.training_set`")
    parser.add_argument("--results", required=True, type=Path, help="folder of the results, with the scans' samples")
    parser.add_argument("--template", required=True, type=Path, help="folder of the template")
    parser.add_argument("--out", required=True, type=Path, help="folder of the checkpoint to write")
    parser.add_argument("--settings", default="{}", help="JSON of the config's section `train_baselines`")
    parser.add_argument("--seed", type=int, default=0, help="accepted like by every training; nothing here is random")
    return parser


if __name__ == "__main__":
    sys.exit(main())
