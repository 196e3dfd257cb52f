"""Find the face of a scan and render it: the frontal picture and six views around it."""

from typing import Any

from nphm_core.geometry.rays import RayCaster
from nphm_core.io.files import write_npz
from nphm_core.io.images import write_image
from nphm_core.io.meshes import read_mesh
from nphm_core.registration.drawable import drawable_of
from nphm_core.registration.face_search import find_faces
from nphm_core.registration.render import render_face
from pipelines.stage_command import Job, stage_command


def process(job: Job) -> dict[str, Any]:
    """Write frontal.png and views.npz; without one clear face, frontal.png shows what was tried."""
    drawable = drawable_of(read_mesh(job.folder / "scan.ply"))
    caster = RayCaster(drawable.vertices, drawable.faces)
    search = find_faces(drawable, caster, min_confidence=job.settings.min_confidence)
    if len(search.fits) != 1:
        write_image(job.out / "frontal.png", search.contact_sheet())
    fit = search.fit
    views = render_face(drawable, caster, fit, job.settings)
    write_image(job.out / "frontal.png", views.images[0])
    write_npz(job.out / "views.npz", views.arrays())
    warnings = ["the scan is turned inside out; its triangles are flipped"] if views.flip_faces else []
    return {
        "backend": views.backend,
        "n_pictures_searched": search.n_pictures,
        "face_residual_mm": round(fit.residual_mm, 3),
        "flip_faces": views.flip_faces,
        "is_coloured": views.is_coloured,
        "warnings": warnings,
    }


if __name__ == "__main__":
    stage_command("render", process)
