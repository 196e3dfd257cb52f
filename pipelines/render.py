"""Find the face of a scan and render it: the frontal picture and six views around it."""

from typing import Any

from nphm_core.geometry.rays import RayCaster
from nphm_core.io.files import write_npz
from nphm_core.io.images import write_image
from nphm_core.io.meshes import read_mesh
from nphm_core.registration.drawable import Drawable, drawable_of
from nphm_core.registration.face_geometry import FaceFit
from nphm_core.registration.face_search import find_faces
from nphm_core.registration.given_landmarks import face_of_landmarks
from nphm_core.registration.render import render_face
from pipelines.stage_command import Job, stage_command
from pipelines.stage_inputs import read_given_landmarks


def process(job: Job) -> dict[str, Any]:
    """Write frontal.png and views.npz; without one clear face, frontal.png shows what was tried."""
    mesh = read_mesh(job.folder / "scan.ply")
    drawable = drawable_of(mesh)
    caster = RayCaster(drawable.vertices, drawable.faces)
    given = read_given_landmarks(job)
    if given is None:
        fit, n_pictures = _found_face(job, drawable, caster)
    else:
        # They say which face is meant, so that a second one, or none that a detector would see, does not matter.
        fit, n_pictures = face_of_landmarks(given.index, given.points, mesh), 0
    views = render_face(drawable, caster, fit, job.settings)
    write_image(job.out / "frontal.png", views.images[0])
    write_npz(job.out / "views.npz", views.arrays())
    warnings = ["the scan is turned inside out; its triangles are flipped"] if views.flip_faces else []
    return {
        "backend": views.backend,
        "n_pictures_searched": n_pictures,
        "face_residual_mm": round(fit.residual_mm, 3),
        "flip_faces": views.flip_faces,
        "is_coloured": views.is_coloured,
        "warnings": warnings,
    }


def _found_face(job: Job, drawable: Drawable, caster: RayCaster) -> tuple[FaceFit, int]:
    """Search for the one face, and give it with the number of pictures looked at."""
    search = find_faces(drawable, caster, min_confidence=job.settings.min_confidence)
    if len(search.fits) != 1:
        write_image(job.out / "frontal.png", search.contact_sheet())
    return search.fit, search.n_pictures


if __name__ == "__main__":
    stage_command("render", process)
