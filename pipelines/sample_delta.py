"""Store what training pairs of the expression deformation are drawn from: two registered meshes, compactly."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from nphm_core.config import SubdivideConfig
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import read_npz
from nphm_core.io.meshes import read_facts, read_mesh
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.supervision.sample_delta import write_delta_samples
from pipelines.stage_command import Job, stage_command
from pipelines.stage_inputs import read_fit

_TRUSTED = 0.5


def process(job: Job) -> dict[str, Any]:
    """Write samples_delta.safetensors: this scan's registration and that of its subject's canonical neutral."""
    mesh, posed, weight = _registration(job, job.folder)
    folder, warnings = _canonical_folder(job)
    canonical = None
    if folder is not None:
        _, canonical, canonical_weight = _registration(job, folder)
        weight = np.minimum(weight, canonical_weight)
    facts = {
        "scan": job.scan_id,
        "canonical_scan": job.row["canonical_scan"] if folder is not None else "",
        "template": job.template.name,
        "template_hash": job.template.hash,
        "region": job.settings.region,
        "seed": job.seed,
        "stage": job.stage.name,
        "stage_version": job.stage.version,
    }
    path = job.out / "samples_delta.safetensors"
    write_delta_samples(path, canonical, posed, mesh.faces, weight, facts, keep=_kept_vertices(job))
    measures = {"trusted_share": round(float((weight > _TRUSTED).mean()), 4)}
    if canonical is not None:
        measures |= _lengths(posed - canonical, weight)
    return measures | {"megabytes": round(path.stat().st_size / 1e6, 2), "warnings": warnings}


def _canonical_folder(job: Job) -> tuple[Path | None, list[str]]:
    """Give the folder of the subject's canonical neutral, which may be this scan's; None if it is of no use."""
    if not job.row["canonical_scan"]:
        missing = "the subject has no canonical neutral, so no pairs can be drawn"
        return None, [f"{missing}; mark its open-mouth neutral in the scan table, or set canonical to closed"]
    folder = job.related("canonical") or job.folder
    if not ((folder / "registered.ply").is_file() and (folder / "flame.json").is_file()):
        return None, ["the subject's canonical neutral could not be registered, so no pairs can be drawn"]
    return folder, []


def _registration(job: Job, folder: Path) -> tuple[Mesh, Float[ndarray, "n 3"], Float[ndarray, " n"]]:
    """Give a registered mesh, its vertices in canonical space, and their trust."""
    mesh = read_mesh(folder / "registered.ply", template_hash=job.template.hash)
    _, T_canonical_metric = read_fit(job, folder)
    weight = read_npz(folder / "registered_weights.npz")["weight"].astype(float)
    return mesh, T_canonical_metric.apply(mesh.vertices), weight


def _kept_vertices(job: Job) -> Bool[ndarray, " n"] | None:
    if job.settings.region == "head":
        return None
    from nphm_core.evaluation.fine_template import fine_template

    facts = read_facts(job.folder / "registered.ply")
    refined = SubdivideConfig(levels=facts["levels"], region=facts["region"])
    return fine_template(job.template, refined).regions[job.settings.region]


def _lengths(delta: Float[ndarray, "n 3"], weight: Float[ndarray, " n"]) -> dict[str, float]:
    length_mm = np.linalg.norm(delta, axis=1)[weight > _TRUSTED] * MM_PER_CANONICAL_UNIT
    if not len(length_mm):
        return {}
    return {
        "median_delta_mm": round(float(np.median(length_mm)), 4),
        "max_delta_mm": round(float(length_mm.max()), 4),
    }


if __name__ == "__main__":
    stage_command("sample_delta", process)
