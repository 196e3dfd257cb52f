"""MediaPipe's face landmarks, offline, from the models inside the pinned wheel.

The face oval's points slide along the silhouette and are 2 to 3 cm off on real scans: they are marked and never used
for a fit. Lowering the confidence below 0.5 makes detection worse, because the only face asked for is then a junk box.
"""

import os
from types import TracebackType

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from nphm_core.registration.lean_import import bare_packages

N_LANDMARKS = 468
"""Points of the face mesh; the ten of the irises, which only the refined model gives, are left out."""

CONTOUR = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""The face oval: these lie where the surface turns away, not where the skin has a feature."""


class FaceDetector:
    """Finds the landmarks of faces in pictures; a context manager, deterministic."""

    def __init__(self, *, refine: bool, min_confidence: float, max_faces: int = 1) -> None:
        """Load the models.

        `refine` gives better eyes and lips where there is colour, and worse ones on grey pictures.
        """
        # MediaPipe reports every graph it starts; keep warnings and errors.
        os.environ.setdefault("GLOG_minloglevel", "2")
        with bare_packages("mediapipe", "mediapipe.python", "mediapipe.python.solutions", keep=True):
            from mediapipe.python.solutions.face_mesh import FaceMesh

        self._mesh = FaceMesh(
            static_image_mode=True,
            max_num_faces=max_faces,
            refine_landmarks=refine,
            min_detection_confidence=min_confidence,
        )

    def detect(self, image: UInt8[ndarray, "height width 3"]) -> list[Float[ndarray, "468 2"]]:
        """Give the landmarks of each face in pixels; an empty list if there is none."""
        result = self._mesh.process(np.ascontiguousarray(image)).multi_face_landmarks
        size = np.array([image.shape[1], image.shape[0]], float)
        return [np.array([(p.x, p.y) for p in face.landmark[:N_LANDMARKS]]) * size for face in result or ()]

    def close(self) -> None:
        """Free the models."""
        self._mesh.close()

    def __enter__(self) -> "FaceDetector":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
