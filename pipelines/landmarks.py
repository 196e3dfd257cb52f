"""Detect the landmarks of the face in every view and measure how well the views agree."""

from typing import Any

from nphm_core.io.files import read_npz, write_json
from nphm_core.registration.landmarks import detect_landmarks
from nphm_core.registration.render import FaceViews
from pipelines.stage_command import Job, stage_command


def process(job: Job) -> dict[str, Any]:
    """Write landmarks2d.json: pixels of every landmark in every view, and their spread."""
    views = FaceViews.from_arrays(read_npz(job.folder / "views.npz"))
    landmarks = detect_landmarks(views.images, views.cameras, job.settings, is_coloured=views.is_coloured)
    write_json(job.out / "landmarks2d.json", {"views": list(views.names), **landmarks.to_json()})
    dropped = [name for name, used in zip(views.names, landmarks.used, strict=True) if not used]
    warnings = [f"views without a trusted face: {', '.join(dropped)}"] if dropped else []
    return {**landmarks.quality, "warnings": warnings}


if __name__ == "__main__":
    stage_command("landmarks", process)
