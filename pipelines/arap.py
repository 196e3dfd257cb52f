"""Register the refined template to the scan, as rigidly as possible, with the head model's parameters fixed."""

from dataclasses import replace
from typing import Any

import numpy as np

from nphm_core.config import SubdivideConfig
from nphm_core.evaluation.fine_template import fine_template
from nphm_core.io.files import read_npz, write_npz
from nphm_core.io.meshes import read_facts, read_mesh
from nphm_core.registration.arap import ArapResult, register_arap, trust_of_regions
from nphm_core.registration.correspondences import ScanTarget
from nphm_core.registration.rims import rim_pairs
from nphm_core.registration.subdivide import template_hierarchy
from nphm_core.registration.unfold import unfold
from pipelines.stage_command import Job, stage_command
from pipelines.stage_inputs import read_scan_surface, write_template_mesh


def process(job: Job) -> dict[str, Any]:
    """Write registered.ply (mm) and, for each vertex, how far it followed the scan."""
    template, path = job.template, job.folder / "subdivided.ply"
    rest = read_mesh(path, template_hash=template.hash)
    facts = {key: read_facts(path)[key] for key in ("levels", "region")}
    refinement = SubdivideConfig(**facts)
    scan = read_scan_surface(job)
    result = register_arap(
        rest.vertices,
        template.faces,
        template_hierarchy(template, refinement),
        ScanTarget(scan),
        job.settings,
        trust=trust_of_regions(
            template.regions, template.n_vertices, is_bald=job.record("flame_fit")["metrics"]["bald"]
        ),
        pairs=rim_pairs(template.model.v_template * 1000.0, template.faces, template.regions),
    )
    result = _unfolded(job, result, rest.faces, refinement)
    write_template_mesh(job, "registered.ply", result.vertices, rest.faces, facts)
    weights = {"weight": result.weights.astype(np.float32), "distance_mm": result.distances_mm.astype(np.float32)}
    write_npz(job.out / "registered_weights.npz", weights)
    return _metrics(job, result)


def _unfolded(job: Job, result: ArapResult, faces: np.ndarray, refinement: SubdivideConfig) -> ArapResult:
    """Take out folds that the template does not have; the linear fit brings some to eyelids, lips and ears."""
    own = fine_template(job.template, refinement)
    seen = own.regions["face"] | own.regions.get("ears", False)
    vertices, moved = unfold(result.vertices, own.rest, faces, seen)
    return replace(result, vertices=vertices, weights=np.where(moved, 0.0, result.weights))


def _metrics(job: Job, result: ArapResult) -> dict[str, Any]:
    on_face = job.template.regions["face"] & (result.weights[: job.template.n_vertices] > 0)
    distances = result.distances_mm[: job.template.n_vertices][on_face]
    fit = read_npz(job.folder / "flame.npz")["vertices_mm"]
    moved = np.linalg.norm(result.vertices[: len(fit)] - fit, axis=1)
    warnings = []
    if result.n_flipped or result.n_crossed:
        warnings.append(f"{result.n_flipped} triangles stay flipped and {result.n_crossed} pairs of lips or lids cross")
    return {
        "face_median_mm": round(float(np.median(distances)), 4) if len(distances) else None,
        "followed_share": round(float(on_face.sum() / job.template.regions["face"].sum()), 4),
        "moved_median_mm": round(float(np.median(moved)), 4),
        "n_flipped": result.n_flipped,
        "n_crossed": result.n_crossed,
        "warnings": warnings,
    }


if __name__ == "__main__":
    stage_command("arap", process)
