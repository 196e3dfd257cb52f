"""Draw training samples of a scan's signed distance, in canonical space."""

from typing import Any

from nphm_core.io.meshes import read_facts, read_mesh
from nphm_core.supervision.sample_file import write_sdf_samples
from nphm_core.supervision.sample_sdf import sample_sdf
from nphm_core.supervision.samples import ClosedScan
from nphm_core.supervision.throat import throat_plane
from pipelines.stage_command import Job, stage_command
from pipelines.stage_inputs import read_fit


def process(job: Job) -> dict[str, Any]:
    """Write samples_sdf.safetensors."""
    closed = read_mesh(job.folder / "scan_closed.ply")
    registered = read_mesh(job.folder / "registered.ply", template_hash=job.template.hash).vertices
    fit, T_canonical_metric = read_fit(job)
    regions = job.template.regions
    # The first vertices of a registered mesh are the template's.
    face_points = registered[: job.template.n_vertices][regions["face"]]
    throat = throat_plane(fit["vertices_mm"], job.template.faces, regions["neck"], regions["face"])
    scan = ClosedScan(closed.vertices, closed.faces, read_facts(job.folder / "scan_closed.ply")["n_scan_faces"])
    samples = sample_sdf(scan, face_points, throat, T_canonical_metric, job.settings, rng=job.rng)
    facts = {
        "scan": job.scan_id,
        "template": job.template.name,
        "template_hash": job.template.hash,
        "T_canonical_metric": T_canonical_metric.to_json(),
        "seed": job.seed,
        "stage": job.stage.name,
        "stage_version": job.stage.version,
    }
    path = job.out / "samples_sdf.safetensors"
    write_sdf_samples(path, samples, facts)
    return {
        "n_face": len(samples.face.position),
        "n_rest": len(samples.rest.position),
        "n_near": len(samples.near.sdf),
        "n_far": len(samples.far.sdf),
        "trusted_share_near": round(float(samples.near.trusted.mean()), 4) if len(samples.near.sdf) else 0.0,
        "trusted_share_far": round(float(samples.far.trusted.mean()), 4) if len(samples.far.sdf) else 0.0,
        "fill_share": round(float(scan.is_fill.mean()), 4),
        "megabytes": round(path.stat().st_size / 1e6, 2),
    }


if __name__ == "__main__":
    stage_command("sample_sdf", process)
