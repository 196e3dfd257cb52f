"""A simulated depth sensor that goes around a head: what it sees, what it misses, how wrong it is.

Missing are places it looks at along the surface, whatever lies behind something else, patches that drop out, and much
of dark hair. Wrong are pixels (white noise that grows with the slope), views (a smooth error each) and the assumed
place of the sensor (calibration). Lengths in mm, in the frame of the posed head.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.geometry.mesh import face_normals
from nphm_core.geometry.rays import RayCaster
from nphm_core.registration.cameras import Camera, look_at
from nphm_core.synthetic.fusion import DepthView
from nphm_core.synthetic.noise import smooth_noise

# Azimuth and elevation of the stations in degrees; none looks up under the chin or at the back from below.
STATIONS = (
    (0, 8), (35, 12), (-35, 12), (70, 5), (-70, 5), (105, 15), (-105, 15), (150, 20), (-150, 20), (20, -14), (-20, -14),
    (0, 50),
)  # fmt: skip


@dataclass(frozen=True)
class SensorSettings:
    """How good the sensor is."""

    pixels: int = 400
    distance_mm: float = 900.0
    noise_mm: float = 0.12
    """White noise of a pixel that looks straight at the surface."""
    drift_mm: float = 0.08
    """Smooth error of a view."""
    calibration_mm: float = 0.08
    """Error of a station's assumed place."""
    max_slope_degrees: float = 74.0
    """Flatter looks give nothing."""
    dropout_share: float = 0.01
    hair_dropout_share: float = 0.1


def scan_views(
    vertices: Float[ndarray, "n 3"],
    faces: Int[ndarray, "m 3"],
    darkness: Float[ndarray, " n"],
    settings: SensorSettings,
    *,
    rng: np.random.Generator,
) -> list[DepthView]:
    """Look at a surface from all stations; `darkness` in [0, 1] is how badly a vertex reflects."""
    caster = RayCaster(vertices, faces)
    normals = face_normals(vertices, faces)[0]
    centre = 0.5 * (vertices.min(0) + vertices.max(0))
    extent = float(np.linalg.norm(vertices - centre, axis=1).max())
    # The whole head fits into the picture.
    focal = settings.pixels / 2 * settings.distance_mm / extent
    views = []
    for azimuth, elevation in np.radians(STATIONS):
        back = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
        camera = look_at(
            centre, back, np.array([0.0, 1.0, 0.0]), settings.distance_mm, focal, settings.pixels, settings.pixels
        )
        origins, directions = camera.rays(camera.pixel_centres())
        hits = caster.cast(origins, directions)
        dark = np.where(hits.face >= 0, (darkness[faces[hits.face]] * hits.barycentric).sum(1), 0)
        cosine = np.abs((normals[hits.face] * directions).sum(1))
        axial = -(directions @ camera.axes[2])
        depth = _measured(hits.face >= 0, hits.distance * axial, cosine, dark, settings, rng)
        views.append(DepthView(_misplaced(camera, settings, rng), depth.reshape(settings.pixels, settings.pixels)))
    return views


def _measured(seen, depth, cosine, dark, settings: SensorSettings, rng: np.random.Generator) -> ndarray:
    n = settings.pixels
    kept = seen & (cosine > np.cos(np.radians(settings.max_slope_degrees)))
    row, column = np.divmod(np.arange(n * n), n)
    place = np.stack([column, row, np.zeros(n * n)], axis=1).astype(float)
    seeds = rng.integers(0, 2**31, 2)
    patches = smooth_noise(place, n / 40, int(seeds[0]))
    share = settings.dropout_share + settings.hair_dropout_share * dark
    # Standard normal quantile, roughly: how high the noise of a patch has to be for its share of the picture.
    kept &= patches < 2.1 - 2.1 * np.minimum(share / 0.5, 1) ** 0.5
    slope = 1 / np.maximum(cosine, 0.2)
    error = settings.noise_mm * slope * rng.standard_normal(n * n)
    error += settings.drift_mm * smooth_noise(place, n / 8, int(seeds[1]))
    return np.where(kept, depth + error, 0).astype(np.float32)


def _misplaced(camera: Camera, settings: SensorSettings, rng: np.random.Generator) -> Camera:
    matrix = camera.T_camera_scan.copy()
    matrix[:3, 3] += settings.calibration_mm * rng.standard_normal(3)
    return Camera(matrix, camera.focal_px, camera.width, camera.height)
