"""Put the landmarks onto the scan; find its unit and its pose."""

from typing import Any

from nphm_core.errors import LandmarkError, TemplateError
from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.rays import RayCaster
from nphm_core.io.files import read_json, read_npz, write_json
from nphm_core.io.meshes import read_mesh
from nphm_core.registration.backproject import ScanLandmarks3D, backproject
from nphm_core.registration.drawable import drawable_of
from nphm_core.registration.given_landmarks import with_given_landmarks
from nphm_core.registration.landmarks import ViewLandmarks
from nphm_core.registration.render import FaceViews
from nphm_core.template.template import Template
from pipelines.stage_command import Job, stage_command
from pipelines.stage_inputs import read_given_landmarks

MM_PER_METRE = 1000.0
TemplateLandmarks = tuple[dict[int, Any], dict[int, float]]


def process(job: Job) -> dict[str, Any]:
    """Write landmarks3d.json: unit, pose, and the landmarks on the surface in mm."""
    views = FaceViews.from_arrays(read_npz(job.folder / "views.npz"))
    mesh, given, warnings = read_mesh(job.folder / "scan.ply"), read_given_landmarks(job), list[str]()
    template_landmarks = _template_landmarks(job.template)
    declared, has_unit = job.row.get("mm_per_unit"), job.row.get("unit") != "arbitrary"
    try:
        result = _detected(job, mesh, views, template_landmarks, declared, has_unit)
    except LandmarkError as error:
        if given is None:
            raise
        result = None
        warnings.append(f"only the landmarks of the file are used: {error}")
    if given is not None:
        result = with_given_landmarks(
            given, result, mesh, *template_landmarks, declared_mm_per_unit=declared, has_unit=has_unit
        )
    assert result is not None
    facts = {"scan": job.scan_id, "space": "metric", "flip_faces": views.flip_faces, **result.to_json()}
    write_json(job.out / "landmarks3d.json", facts)
    if result.unit == "arbitrary" and has_unit:
        warnings.append(
            "no unit gives a human head: the scan got the size of the template's mean face. Set unit = arbitrary for it"
            " in the scan table if it has none"
        )
    return {**result.quality, "warnings": warnings}


def _detected(
    job: Job,
    mesh: Mesh,
    views: FaceViews,
    template_landmarks: TemplateLandmarks,
    declared: float | None,
    has_unit: bool,
) -> ScanLandmarks3D | None:
    """Give the detector's landmarks on the scan; None if it saw no face and the file's have to do."""
    facts = read_json(job.folder / "landmarks2d.json")
    if not any(facts["used"]):
        return None
    drawable = drawable_of(mesh)
    return backproject(
        drawable,
        RayCaster(drawable.vertices, drawable.faces),
        views.cameras,
        ViewLandmarks.from_json(facts),
        *template_landmarks,
        job.settings,
        declared_mm_per_unit=declared,
        has_unit=has_unit,
    )


def _template_landmarks(template: Template) -> TemplateLandmarks:
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
