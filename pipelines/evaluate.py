"""Measure a registered mesh against its scan, give the verdict on the scan, and draw it for people."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nphm_core.config import SubdivideConfig
from nphm_core.evaluation.fine_template import FineTemplate, check_fine_topology, fine_template, view_topology
from nphm_core.evaluation.landmarks import LandmarkResiduals, landmark_residuals
from nphm_core.evaluation.surface import SurfaceMetrics, VertexErrors, measure_surface
from nphm_core.evaluation.verdict import Verdict, judge, stage_warnings
from nphm_core.io.files import atomic_write, read_npz, write_bytes, write_json, write_text
from nphm_core.io.meshes import read_facts, read_mesh
from nphm_core.spaces import Similarity
from pipelines.stage_command import Job, stage_command
from pipelines.stage_inputs import metric_mesh, read_landmarks

if TYPE_CHECKING:
    from PIL import Image

    from nphm_core.geometry.mesh import Mesh
    from nphm_core.report.quality_picture import Heading

_PNG_LEVEL = 4


def process(job: Job) -> dict[str, Any]:
    """Write metrics.json and the pictures, whatever the earlier stages came to."""
    records = {name: job.record(name) for name in job.stage.needs}
    if records["arap"]["status"] != "ok":
        return _report_failure(job, records)
    scan, landmark_facts = _outward_scan(job)
    registered = read_mesh(job.folder / "registered.ply")
    fine = _fine_template(job, registered)
    metrics, errors = measure_surface(
        scan,
        registered,
        fine.rest,
        read_npz(job.folder / "registered_weights.npz")["weight"],
        fine.regions,
        job.settings,
        rng=job.rng,
    )
    found, _ = read_landmarks(job)
    landmarks = landmark_residuals(
        job.template.landmarks, registered.vertices, job.template.faces, found.index, found.points_mm, found.weight
    )
    measures = {"surface": metrics.to_json(), "landmarks": landmarks.to_json()}
    verdict = judge(records, measures, job.settings)
    headline = _verdict_facts(verdict, records) | _headline(metrics, landmarks, records)
    write_json(job.out / "metrics.json", {"scan": job.scan_id} | headline | measures)
    heading = _heading(job, verdict, _numbers(metrics, landmarks))
    T_head_metric = Similarity.from_json(landmark_facts["T_head_metric"])
    _draw(job, heading, scan, registered, fine, errors, landmarks, T_head_metric)
    return headline


def _verdict_facts(verdict: Verdict, records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Give what every scan has, with or without a registered mesh."""
    backprojected = records["backproject"].get("metrics", {})
    # Not `warnings`: these are the earlier stages', not this one's.
    return verdict.to_json() | {
        "stage_warnings": list(stage_warnings(records)),
        "unit": backprojected.get("unit", ""),
    }


def _outward_scan(job: Job) -> "tuple[Mesh, dict[str, Any]]":
    _, facts = read_landmarks(job)
    return metric_mesh(job), facts


def _fine_template(job: Job, registered: "Mesh") -> FineTemplate:
    fine = fine_template(job.template, _refinement(job))
    check_fine_topology(fine, registered.faces)
    return fine


def _refinement(job: Job) -> SubdivideConfig:
    facts = read_facts(job.folder / "registered.ply")
    return SubdivideConfig(levels=facts["levels"], region=facts["region"])


def _headline(
    metrics: SurfaceMetrics, landmarks: LandmarkResiduals, records: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Give the numbers that the table of the data set shows."""
    face = metrics.to_json()["regions"]["face"]
    fit = records["flame_fit"]["metrics"]
    return {
        "median_mm": face["distance"]["median_mm"],
        "p95_mm": face["distance"]["p95_mm"],
        "matched_share": face["matched_share"],
        "covered_share": metrics.to_json()["covered_share"],
        "scan_median_mm": metrics.to_json()["scan_to_face"]["median_mm"],
        "folded_faces": metrics.folded_faces,
        "landmark_mm": landmarks.to_json()["median_mm"],
        "linear_fit_mm": fit.get("residual_mm"),
    }


def _numbers(metrics: SurfaceMetrics, landmarks: LandmarkResiduals) -> str:
    face = metrics.regions["face"]
    parts = []
    if face.distance.n:
        parts.append(f"face: median {face.distance.median_mm:.3f} mm, 95 % below {face.distance.p95_mm:.2f} mm")
    parts.append(f"{face.matched_share:.0%} of the face on the scan")
    if landmarks.summary.n:
        parts.append(f"landmarks {landmarks.summary.median_mm:.1f} mm")
    return "  ·  ".join(parts)


def _heading(job: Job, verdict: Verdict, numbers: str) -> "Heading":
    from nphm_core.report.quality_picture import Heading

    return Heading(job.scan_id, verdict.status, verdict.reasons, numbers, verdict.stage)


def _draw(
    job: Job,
    heading: "Heading",
    scan: "Mesh",
    registered: "Mesh",
    fine: FineTemplate,
    errors: VertexErrors,
    landmarks: LandmarkResiduals,
    T_head_metric: Similarity,
) -> None:
    from nphm_core.report.quality_picture import TRUSTED_WEIGHT, registration_picture
    from nphm_core.report.quality_tiles import RegistrationView, card_of, registration_tiles, sheet_of

    view = RegistrationView(
        scan=scan,
        linear_fit=read_mesh(job.folder / "flame.ply"),
        registered=registered,
        rest=fine.rest,
        face=fine.regions["face"],
        distance=errors.distance,
        is_measured=errors.is_measured,
        # The mouth's inside folds in the head model already; a dot on the lips would blame the registration.
        is_folded=errors.is_folded & ~fine.regions["hidden"][registered.faces].all(axis=1),
        landmarks=landmarks.found,
        landmarks_registered=landmarks.registered,
        landmark_trusted=landmarks.weight >= TRUSTED_WEIGHT,
    )
    settings = job.settings
    tiles = registration_tiles(
        view, T_head_metric, tile_px=settings.picture_pixels, colour_max_mm=settings.colour_max_mm
    )
    image = registration_picture(tiles, heading, colour_max_mm=settings.colour_max_mm)
    _write_picture(job.out / "quality.png", image)
    write_bytes(job.out / "quality_card.webp", card_of(tiles))
    write_bytes(job.out / "quality_tiles.webp", sheet_of(tiles))
    _write_3d(job, scan, registered, errors, T_head_metric)


def _write_3d(job: Job, scan: "Mesh", registered: "Mesh", errors: VertexErrors, T_head_metric: Similarity) -> None:
    from nphm_core.report.head_3d import head_script

    n, _ = view_topology(job.template, _refinement(job))
    script = head_script(
        job.scan_id,
        scan,
        registered.vertices[:n],
        errors.distance[:n],
        errors.is_measured[:n],
        T_head_metric,
        n_scan_vertices=job.settings.view_vertices,
        colour_max_mm=job.settings.colour_max_mm,
    )
    write_text(job.out / "quality_3d.js", script)


def _report_failure(job: Job, records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Write what can be said of a scan without a registered mesh."""
    from nphm_core.io.images import read_image
    from nphm_core.report.quality_picture import failure_picture
    from nphm_core.report.quality_tiles import card_of_picture

    verdict = judge(records, None, job.settings)
    facts = _verdict_facts(verdict, records)
    write_json(job.out / "metrics.json", {"scan": job.scan_id} | facts)
    heading = _heading(job, verdict, "no registered mesh")
    frontal = job.folder / "frontal.png"
    pictures = [read_image(frontal)] if frontal.is_file() else []
    if pictures:
        write_bytes(job.out / "quality_card.webp", card_of_picture(pictures[0]))
    _write_picture(job.out / "quality.png", failure_picture(heading, pictures, tile_px=job.settings.picture_pixels))
    return facts


def _write_picture(path: Path, image: "Image.Image") -> None:
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG", compress_level=_PNG_LEVEL)


if __name__ == "__main__":
    stage_command("evaluate", process)
