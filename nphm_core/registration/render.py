"""Stage `render`: find the face of a scan and make pictures of it.

The frontal camera is upright, looks at the middle of the face, and the face fills about 60 % of the picture's height.
Six more cameras go around the face: landmarks that several views agree on can be trusted. Methods: PLATFORM notes on
headless rendering; `face_search` and `render_backends` for the how.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from nphm_core.config import RenderConfig
from nphm_core.geometry.rays import RayCaster
from nphm_core.registration.cameras import Camera
from nphm_core.registration.drawable import Drawable, with_texture_for
from nphm_core.registration.face_geometry import FACE_CENTRE_MM, FACE_HEIGHT_MM, FaceFit, frontal_camera
from nphm_core.registration.render_backends import Backend, OpenGLRenderer, RaycastRenderer, open_renderer

FACE_SHARE = 0.6
VIEWS: tuple[tuple[str, float, float], ...] = (
    ("frontal", 0.0, 0.0),
    ("right-15", 15.0, 0.0),
    ("left-15", -15.0, 0.0),
    ("right-30", 30.0, 0.0),
    ("left-30", -30.0, 0.0),
    ("above-12", 0.0, 12.0),
    ("below-12", 0.0, -12.0),
)
"""Name, yaw and pitch in degrees: from where the camera looks, right and left as in the frontal picture."""


@dataclass(frozen=True)
class FaceViews:
    """Pictures of the face, the frontal one first."""

    names: tuple[str, ...]
    images: UInt8[ndarray, "n_views height width 3"]
    """sRGB."""
    cameras: tuple[Camera, ...]
    """In scan space."""
    is_coloured: bool
    """Whether the scan brought colour."""
    flip_faces: bool
    """Whether the scan's triangles face inwards, so that every later stage must turn them."""
    backend: Backend

    def arrays(self) -> dict[str, ndarray]:
        """Give all as arrays for one file."""
        return {
            "names": np.array(self.names),
            "images": self.images,
            "T_camera_scan": np.stack([camera.T_camera_scan for camera in self.cameras]),
            "focal_px": np.array([camera.focal_px for camera in self.cameras]),
            "is_coloured": np.array(self.is_coloured),
            "flip_faces": np.array(self.flip_faces),
            "backend": np.array(self.backend),
        }

    @classmethod
    def from_arrays(cls, data: dict[str, ndarray]) -> "FaceViews":
        """Read what `arrays` gave."""
        height, width = data["images"].shape[1:3]
        cameras = tuple(
            Camera(matrix, float(focal), width, height)
            for matrix, focal in zip(data["T_camera_scan"], data["focal_px"], strict=True)
        )
        names = tuple(str(name) for name in data["names"])
        backend = str(data["backend"])
        return cls(names, data["images"], cameras, bool(data["is_coloured"]), bool(data["flip_faces"]), backend)  # type: ignore[arg-type]


def face_cameras(fit: FaceFit, settings: RenderConfig) -> tuple[Camera, ...]:
    """Give the cameras of all views of a face."""
    fov_rad = np.radians(settings.fov_degrees)
    frontal = frontal_camera(fit, pixels=settings.image_pixels, fov_rad=fov_rad, share=FACE_SHARE)
    centre = fit.T_scan_face.apply(FACE_CENTRE_MM[None])[0]
    return tuple(frontal.turned(centre, np.radians(yaw), np.radians(pitch)) for _, yaw, pitch in VIEWS)


def render_face(drawable: Drawable, caster: RayCaster, fit: FaceFit, settings: RenderConfig) -> FaceViews:
    """Draw all views of a face."""
    cameras = face_cameras(fit, settings)
    # Scan units that a pixel of the frontal picture shows.
    pixel = FACE_HEIGHT_MM * fit.T_scan_face.scale / FACE_SHARE / settings.image_pixels
    renderer = open_renderer(with_texture_for(drawable, pixel), caster, settings.backend, cameras[0])
    try:
        images = _drawn(renderer, cameras)
    finally:
        renderer.close()
    return FaceViews(
        names=tuple(name for name, _, _ in VIEWS),
        images=images,
        cameras=cameras,
        is_coloured=drawable.is_coloured,
        flip_faces=fit.back_faces > 0.5 and drawable.source_point is None,
        backend=renderer.backend,
    )


def _drawn(
    renderer: RaycastRenderer | OpenGLRenderer, cameras: tuple[Camera, ...]
) -> UInt8[ndarray, "n_views height width 3"]:
    return np.stack([renderer.render(camera) for camera in cameras])


def view_direction_weights(cameras: tuple[Camera, ...]) -> Float[ndarray, " n_views"]:
    """Give how much views count: one for the first, less the farther aside; landmarks drift with the yaw."""
    back = np.stack([camera.axes[2] for camera in cameras])
    angle = np.arccos(np.clip(back @ back[0], -1, 1))
    return np.exp(-0.5 * (angle / np.radians(20.0)) ** 2)
