"""What the commands of both training stages share: options, scans of the training set, device and processes."""

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nphm_core.config import Section, read_section
from nphm_core.errors import NphmError, TrainingError
from nphm_core.io.files import read_json, read_safetensors, write_safetensors
from nphm_core.io.meshes import read_mesh
from nphm_core.io.scan_table import read_scan_table
from nphm_core.io.training_set import TrainingRow, read_training_set
from nphm_core.records import digest_of, scan_folder
from nphm_core.spaces import Similarity
from nphm_core.stages import MODEL_STAGES
from pipelines.stage_command import settings_json
from pipelines.training_set import training_rows

if TYPE_CHECKING:
    import torch

    from nphm_core.template.template import Template
    from nphm_core.training.loop import Run
    from nphm_core.training.samples import IdentitySamples

log = logging.getLogger("pipelines.training")

STATES, HELD_OUT = "states", "held_out.safetensors"


@dataclass(frozen=True)
class TrainingScans:
    """The scans of the training set that are of use, in its order."""

    train: tuple[TrainingRow, ...]
    held_out: tuple[TrainingRow, ...]

    @property
    def key(self) -> str:
        """Name the data: scans and the digests of their samples."""
        return digest_of([[vars(row) for row in rows] for rows in (self.train, self.held_out)])


def training_parser(stage: str, description: str | None) -> argparse.ArgumentParser:
    """Give the options that both stages have."""
    parser = argparse.ArgumentParser(prog=f"python -m pipelines.{stage}", description=description)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--training-set", type=Path, help="table of `pipelines.training_set`")
    source.add_argument("--table", type=Path, help="in its place: scan table, or folder in the NPHM data-set layout")
    parser.add_argument("--canonical", choices=("open", "closed"), default="open", help="neutral of --table's subjects")
    parser.add_argument("--results", required=True, type=Path, help="folder of the results, with the scans' samples")
    parser.add_argument("--template", required=True, type=Path, help="folder of the template")
    parser.add_argument("--out", required=True, type=Path, help="folder of the model to write, with the run's states")
    parser.add_argument("--settings", default="{}", help=f"JSON of the config's section `{stage}`")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--hold-out", default="", help="more subjects kept from training, with commas between them")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU if it can")
    parser.add_argument("--initial", type=Path, help="model to go on from: its weights, and the codes of whom it knows")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="refuse to start anew where the states in --out are of other settings; without it such states are "
        "discarded. A run with the same settings and data always goes on from its states",
    )
    parser.add_argument(
        "--max-memory-mb", type=float, help="of the device, for samples; by default half of what is free"
    )
    return parser


def run_training(stage: str, section: type[Section], train: Callable[..., None], options: argparse.Namespace) -> int:
    """Run a stage's command and give its exit code; `train` takes the options, the settings and the device."""
    # Of several processes all see the same data: the first one tells of it.
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    started = time.monotonic()
    try:
        settings = read_section(section, settings_json(options.settings), stage)
        with training_device(options.device) as device:
            options.max_memory_mb = options.max_memory_mb or _half_of_free_memory_mb(device)
            train(options, settings, device)
    except NphmError as error:
        log.error("%s", error)
        return 1
    log.info("%.0f seconds", time.monotonic() - started)
    return 0


def training_scans(options: argparse.Namespace, more_held_out: Sequence[str] = ()) -> TrainingScans:
    """Read who is trained on and who is held out, and say who is left out and why."""
    if options.training_set is not None:
        rows = read_training_set(options.training_set)
    else:
        rows = training_rows(read_scan_table(options.table), options.results, options.canonical, ())
    for row in rows:
        if row.role == "left-out":
            log.warning("left out: %s: %s", row.scan_id, row.reason)
    named = {*filter(None, options.hold_out.split(",")), *more_held_out}
    unknown = sorted(named - {row.subject for row in rows})
    if unknown:
        raise TrainingError(
            f"{len(unknown)} subjects to hold out are not in the training set; expected some of its subjects. Correct "
            f"--hold-out, or validation_subjects in the settings. Missing: {', '.join(unknown)}"
        )
    used = [row for row in rows if row.role != "left-out"]
    is_held_out = [row.role == "held-out" or row.subject in named for row in used]
    train = tuple(row for row, out in zip(used, is_held_out, strict=True) if not out)
    if not train:
        raise TrainingError(
            f"no subject has usable samples to train on: {len(rows)} scans, of which {len(rows) - len(used)} are left "
            f"out and {sum(is_held_out)} held out. See why in the log and in the summary, mend it, and run again."
        )
    return TrainingScans(train, tuple(row for row, out in zip(used, is_held_out, strict=True) if out))


def identity_samples(
    rows: Sequence[TrainingRow], results: Path, template: "Template", device: "torch.device", max_megabytes: float
) -> "IdentitySamples":
    """Read the samples and the anchors of canonical neutrals."""
    from nphm_core.training.samples import IdentitySamples

    return IdentitySamples.from_files(
        [row.subject for row in rows],
        [scan_folder(results, row.scan_id) / "samples_sdf.safetensors" for row in rows],
        np.array([true_anchors(scan_folder(results, row.scan_id), template) for row in rows]).reshape(-1, 39, 3),
        device=device,
        max_megabytes=max_megabytes,
    )


def true_anchors(folder: Path, template: "Template") -> Float[ndarray, "39 3"]:
    """Give the anchors of a scan's registered mesh, in canonical space."""
    # The first vertices of a registered mesh are the template's.
    vertices = read_mesh(folder / "registered.ply", template_hash=template.hash).vertices
    T_canonical_metric = Similarity.from_json(read_json(folder / "flame.json")["T_canonical_metric"])
    return T_canonical_metric.apply(vertices[template.anchors])


@contextlib.contextmanager
def training_device(name: str) -> "Iterator[torch.device]":
    """Give this process's device, joined with the other processes where `torchrun` started several."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            "no GPU can be used by PyTorch here; expected one for --device cuda. Install a build of PyTorch with CUDA "
            "and its driver, or give --device cpu."
        )
    device = torch.device(name, int(os.environ.get("LOCAL_RANK", "0")) if name == "cuda" else None)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if name == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if name == "cuda" else "gloo")
    try:
        yield device
    finally:
        torch.distributed.destroy_process_group()


def _half_of_free_memory_mb(device: "torch.device") -> float:
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2e6
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 2e6


def run_of(options: argparse.Namespace, stage: str, data_key: str) -> "Run":
    """Give the run that a command asks for: its states lie in its folder, and it is told of on terminal and disk."""
    from nphm_core.training.journal import standard_hooks
    from nphm_core.training.loop import Run
    from nphm_core.training.processes import Processes

    hooks = standard_hooks(options.out) if Processes.current().is_first else ()
    return Run(
        states=options.out / STATES,
        resume=True,
        discard_others=not options.resume,
        data_key=digest_of([MODEL_STAGES[stage], data_key]),
        hooks=hooks,
    )


def training_facts(
    options: argparse.Namespace, stage: str, settings: Section, scans: TrainingScans, template: "Template"
) -> dict[str, Any]:
    """Give what a model's folder says of its training; the same training gives the same facts."""
    return {
        f"{stage}.settings": settings.model_dump(mode="json"),
        f"{stage}.seed": options.seed,
        f"{stage}.stage_version": MODEL_STAGES[stage],
        f"{stage}.data": scans.key,
        f"{stage}.n_held_out_scans": len(scans.held_out),
        "template": template.name,
    }


def write_held_out(folder: Path, names: Sequence[str], codes: Float[ndarray, "n n_code"]) -> None:
    """Write the codes of held-out subjects or scans beside a model; they are no part of it."""
    write_safetensors(folder / HELD_OUT, {"codes": codes}, {"names": list(names)})


def read_held_out(folder: Path) -> tuple[tuple[str, ...], Float[ndarray, "n n_code"]]:
    """Read what `write_held_out` wrote; nobody where nobody was held out."""
    if not (folder / HELD_OUT).is_file():
        return (), np.zeros((0, 0), np.float32)
    arrays, facts = read_safetensors(folder / HELD_OUT)
    return tuple(facts["names"]), arrays["codes"]
