"""Detect the landmarks of the face in every view and measure how well the views agree."""

from typing import Any

from nphm_core.errors import LandmarkError
from nphm_core.io.files import read_npz, write_json
from nphm_core.registration.landmarks import detect_landmarks
from nphm_core.registration.render import FaceViews
from pipelines.stage_command import Job, stage_command
from pipelines.stage_inputs import read_given_landmarks


def process(job: Job) -> dict[str, Any]:
    """Write landmarks2d.json: pixels of every landmark in every view, and their spread."""
    views = FaceViews.from_arrays(read_npz(job.folder / "views.npz"))
    try:
        landmarks = detect_landmarks(views.images, views.cameras, job.settings, is_coloured=views.is_coloured)
    except LandmarkError as error:
        if read_given_landmarks(job) is None:
            raise
        write_json(job.out / "landmarks2d.json", {"views": list(views.names), "used": [False] * len(views.names)})
        return {"n_views_used": 0, "warnings": [f"only the landmarks of the file are used: {error}"]}
    write_json(job.out / "landmarks2d.json", {"views": list(views.names), **landmarks.to_json()})
    dropped = [name for name, used in zip(views.names, landmarks.used, strict=True) if not used]
    warnings = [f"views without a trusted face: {', '.join(dropped)}"] if dropped else []
    return {**landmarks.quality, "warnings": warnings}


if __name__ == "__main__":
    stage_command("landmarks", process)
