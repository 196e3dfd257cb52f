"""Fit the head model to a scan: similarity, identity, expression, jaw and neck."""

from typing import Any

import numpy as np
from numpy import ndarray

from nphm_core.io.files import read_npz, write_npz
from nphm_core.registration.flame_fit import FlameFit, fit_flame
from nphm_core.seeds import rng_for
from pipelines.stage_command import Job, stage_command
from pipelines.stage_inputs import read_landmarks, read_scan_surface, write_template_mesh


def process(job: Job) -> dict[str, Any]:
    """Write flame.npz (parameters and vertices) and flame.ply (the fitted head, mm)."""
    landmarks, facts = read_landmarks(job)
    scan = read_scan_surface(job)
    identity, warnings = _shared_identity(job)
    fit = fit_flame(
        job.template,
        scan,
        landmarks,
        job.settings,
        fit_scale=facts["unit"] == "arbitrary",
        identity=identity,
        # Not the scan's own generator: every scan is fitted at the same vertices, so that a turned copy fits the same.
        rng=rng_for(job.seed, job.stage.name, job.template.hash),
    )
    write_npz(job.out / "flame.npz", _arrays(fit))
    transforms = {
        "T_metric_model": fit.T_metric_model.to_json(),
        "T_canonical_metric": fit.T_canonical_metric.to_json(),
    }
    write_template_mesh(job, "flame.ply", fit.vertices_mm, job.template.faces, transforms)
    return {
        "residual_mm": round(fit.residual_mm, 4),
        "landmark_mm": round(fit.landmark_mm, 4),
        "matched_share": round(fit.matched_share, 4),
        "scale": fit.T_metric_model.scale / 1000.0,
        "identity_from": _identity_source(job, identity),
        "hair_evidence": scan.evidence,
        "bald": fit.bald,
        "warnings": warnings,
    }


def _arrays(fit: FlameFit) -> dict[str, ndarray]:
    return {
        "identity": fit.coefficients.identity,
        "expression": fit.coefficients.expression,
        "joint_rotvec": fit.coefficients.rotations,
        "vertices_mm": fit.vertices_mm,
        "data_weight": fit.data_weight.astype(np.float32),
        "energies": np.array(fit.energies),
    }


def _shared_identity(job: Job) -> tuple[ndarray | None, list[str]]:
    """Give the identity that the subject's neutral fixes; None where this scan has to find its own."""
    folder = job.related("identity") if job.settings.share_identity else None
    if folder is None:
        return None, []
    if not (folder / "flame.npz").is_file():
        return None, ["the subject's neutral could not be fitted: this scan's identity is its own"]
    return read_npz(folder / "flame.npz")["identity"], []


def _identity_source(job: Job, identity: ndarray | None) -> str:
    return job.row.get("identity_scan", "") if identity is not None else job.scan_id


if __name__ == "__main__":
    stage_command("flame_fit", process)
