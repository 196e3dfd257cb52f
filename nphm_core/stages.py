"""Names, order, result versions and files of the per-scan stages.

A stage has one name everywhere: rule, command, core module, config section and log folder. A change that alters a
stage's result raises its version here, and only then are its results made again; a change that alters no result
leaves it. Imported by the Snakefile: standard library only.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One step of the work on one scan."""

    name: str
    version: int
    """Raised by every change that alters the result."""
    needs: tuple[str, ...] = ()
    """Stages of the same scan whose artifacts it reads."""
    needs_identity: tuple[str, ...] = ()
    """Stages of the scan that fixes the subject's identity, read unless that is this scan."""
    needs_canonical: tuple[str, ...] = ()
    """Stages of the subject's canonical neutral, read unless that is this scan."""
    artifacts: tuple[str, ...] = ()
    """Files it writes into the scan's folder, always."""
    optional_artifacts: tuple[str, ...] = ()
    """Files it writes where the scan has what they show."""
    uses_template: bool = False
    uses_seed: bool = False
    """Draws random numbers: another seed gives another result."""
    tolerates_failure: bool = False
    """Runs also where an earlier stage failed (it reports the failure)."""


_STAGES = (
    Stage(
        "ingest",
        2,
        artifacts=("scan.ply", "scan.json"),
        optional_artifacts=("texture.png", "given_landmarks.json", "mask.npz"),
    ),
    Stage("render", 1, needs=("ingest",), artifacts=("frontal.png", "views.npz")),
    Stage("landmarks", 1, needs=("render",), artifacts=("landmarks2d.json",)),
    Stage(
        "backproject",
        1,
        needs=("ingest", "render", "landmarks"),
        artifacts=("landmarks3d.json",),
        uses_template=True,
    ),
    Stage(
        "flame_fit",
        4,
        needs=("ingest", "backproject"),
        needs_identity=("flame_fit",),
        artifacts=("flame.npz", "flame.ply", "flame.json"),
        uses_template=True,
        uses_seed=True,
    ),
    Stage("subdivide", 1, needs=("flame_fit",), artifacts=("subdivided.ply", "subdivided.json"), uses_template=True),
    Stage(
        "arap",
        5,
        needs=("ingest", "backproject", "flame_fit", "subdivide"),
        artifacts=("registered.ply", "registered.json", "registered_weights.npz"),
        uses_template=True,
    ),
    Stage(
        "watertight",
        1,
        needs=("ingest", "backproject", "arap"),
        artifacts=("scan_closed.ply", "scan_closed.json", "watertight_report.json"),
        uses_template=True,
    ),
    Stage(
        "sample_sdf",
        1,
        needs=("ingest", "backproject", "flame_fit", "arap", "watertight"),
        artifacts=("samples_sdf.safetensors",),
        uses_template=True,
        uses_seed=True,
    ),
    Stage(
        "sample_delta",
        1,
        needs=("flame_fit", "arap"),
        needs_canonical=("flame_fit", "arap"),
        artifacts=("samples_delta.safetensors",),
        uses_template=True,
    ),
    Stage(
        "evaluate",
        2,
        needs=(
            "ingest",
            "render",
            "landmarks",
            "backproject",
            "flame_fit",
            "subdivide",
            "arap",
            "watertight",
            "sample_sdf",
            "sample_delta",
        ),
        artifacts=("metrics.json", "quality.png"),
        optional_artifacts=("quality_card.webp", "quality_tiles.webp", "quality_3d.js"),
        uses_template=True,
        uses_seed=True,
        tolerates_failure=True,
    ),
)

STAGES: dict[str, Stage] = {stage.name: stage for stage in _STAGES}
"""The per-scan stages by name, in the order of the work."""

MODEL_STAGES = {
    "training_set": 1,
    "train_identity": 1,
    "train_expression": 1,
    "train_baselines": 1,
    "fit": 3,
    "evaluate_model": 1,
    "report": 1,
}
"""Result versions of the stages that work on many scans at once, in the order of the work."""

TEMPLATE_VERSION = 1
"""Raised by every change that alters what `pipelines.template` makes of a head model."""


def record_path(results: str, scan_id: str, stage: str) -> str:
    """Give the record of a stage for a scan: what Snakemake tracks."""
    return f"{results}/scans/{scan_id}/stages/{stage}.json"
