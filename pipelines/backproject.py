"""Put the landmarks onto the scan; find its unit and its pose."""

from typing import Any

from nphm_core.errors import TemplateError
from nphm_core.geometry.rays import RayCaster
from nphm_core.io.files import read_json, read_npz, write_json
from nphm_core.io.meshes import read_mesh
from nphm_core.registration.backproject import backproject
from nphm_core.registration.drawable import drawable_of
from nphm_core.registration.landmarks import ViewLandmarks
from nphm_core.registration.render import FaceViews
from nphm_core.template.template import Template
from pipelines.stage_command import Job, stage_command

MM_PER_METRE = 1000.0


def process(job: Job) -> dict[str, Any]:
    """Write landmarks3d.json: unit, pose, and the landmarks on the surface in mm."""
    views = FaceViews.from_arrays(read_npz(job.folder / "views.npz"))
    landmarks = ViewLandmarks.from_json(read_json(job.folder / "landmarks2d.json"))
    drawable = drawable_of(read_mesh(job.folder / "scan.ply"))
    points_mm, weight = _template_landmarks(job.template)
    has_unit = job.row.get("unit") != "arbitrary"
    result = backproject(
        drawable,
        RayCaster(drawable.vertices, drawable.faces),
        views.cameras,
        landmarks,
        points_mm,
        weight,
        job.settings,
        declared_mm_per_unit=job.row.get("mm_per_unit"),
        has_unit=has_unit,
    )
    facts = {"scan": job.scan_id, "space": "metric", "flip_faces": views.flip_faces, **result.to_json()}
    write_json(job.out / "landmarks3d.json", facts)
    warnings = []
    if result.unit == "arbitrary" and has_unit:
        warnings.append(
            "no unit gives a human head: the scan got the size of the template's mean face. Set unit = arbitrary for it"
            " in the scan table if it has none"
        )
    if job.row.get("landmarks"):
        warnings.append("the landmark file of the scan table is not used yet: landmarks are the detector's")
    return {**result.quality, "warnings": warnings}


def _template_landmarks(template: Template) -> tuple[dict[int, Any], dict[int, float]]:
    """Give the mean head's landmarks in mm and their weights, by MediaPipe's numbers."""
    embedding = template.landmarks
    if len(embedding.index) == 0:
        raise TemplateError(
            "the template has no landmark embedding; one was expected. "
            f"Make it again with `python -m pipelines.template`. Template {template.name}"
        )
    points = embedding.by_index(template.model.v_template * MM_PER_METRE, template.faces)
    return points, {int(i): float(w) for i, w in zip(embedding.index, embedding.weight, strict=True)}


if __name__ == "__main__":
    stage_command("backproject", process)
