"""Find the face of a scan, whatever its unit and orientation.

Small pictures from all directions, turned in steps about the line of sight, go to the detector: the usual upright
poses first, then the rest, then details for a face that is small in the scan. A find counts only if a second, close
look from the front finds it again and the landmarks on the surface have the shape of a face.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from nphm_core.errors import FaceNotFoundError, SeveralFacesError
from nphm_core.geometry.rays import RayCaster
from nphm_core.registration.cameras import Camera, framing
from nphm_core.registration.drawable import Drawable, with_texture_for
from nphm_core.registration.face_detector import FaceDetector
from nphm_core.registration.face_geometry import FaceFit, fit_face, frontal_camera
from nphm_core.registration.render_backends import SurfaceView, see

log = logging.getLogger(__name__)

SEARCH_PIXELS = 192
_FOV_RAD = np.radians(20.0)
_CLOSE_UP_PIXELS = 256
_TILE_PIXELS = 96
_HEAD_BEHIND_MM = 75.0
_HEAD_RADIUS_MM = 165.0
_MIN_HEAD_AREA_MM2 = 15_000.0
"""Less surface than this outside the head cannot hold a second face."""


@dataclass(frozen=True)
class Try:
    """A picture that went to the detector."""

    image: UInt8[ndarray, "tile tile 3"]
    verdict: str
    """Empty if the detector saw nothing."""


@dataclass(frozen=True)
class FaceSearch:
    """What the search found."""

    fits: tuple[FaceFit, ...]
    """Confirmed faces: none, one, or two."""
    tries: tuple[Try, ...]
    """One upright picture for each direction, and each picture with a find that was not confirmed."""
    n_pictures: int
    """Pictures that the detector looked at."""

    @property
    def fit(self) -> FaceFit:
        """Give the one face; none raises FaceNotFoundError, two SeveralFacesError."""
        if len(self.fits) == 1:
            return self.fits[0]
        if self.fits:
            raise SeveralFacesError(
                "the scan holds more than one head; one head a scan was expected. Cut the file into one scan for each"
                " head and list them in the scan table as subjects of their own"
            )
        raise FaceNotFoundError(
            f"no face was found in {self.n_pictures} pictures from all sides{self._reason()}; a scan of a head with its"
            " face was expected. The picture shows what was tried. Check that the scan shows the whole face, or set"
            " exclude for it in the scan table"
        )

    def _reason(self) -> str:
        """Say what the rejected finds were."""
        verdicts = [item.verdict for item in self.tries if item.verdict]
        if not verdicts:
            return ""
        usual = max(sorted(set(verdicts)), key=verdicts.count)
        if "hollow" in verdicts:
            return " (only the inside of a face: its nose points away from the viewer)"
        return f" ({len(verdicts)} finds were rejected: {usual})"

    def contact_sheet(self) -> UInt8[ndarray, "height width 3"]:
        """Give all that was tried as one picture; rejected finds have a red frame, confirmed ones a green one."""
        tiles = [_framed(item) for item in self.tries[:64]]
        columns = max(1, int(np.ceil(np.sqrt(len(tiles)))))
        blank = np.full_like(tiles[0], 255)
        tiles += [blank] * (-len(tiles) % columns)
        return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def _framed(item: Try) -> ndarray:
    out = item.image.copy()
    if item.verdict:
        colour = (0, 160, 0) if item.verdict == "face" else (210, 0, 0)
        out[:3], out[-3:], out[:, :3], out[:, -3:] = colour, colour, colour, colour
    return out


def find_faces(drawable: Drawable, caster: RayCaster, *, min_confidence: float, several: bool = True) -> FaceSearch:
    """Search a scan for faces.

    With `several`, looks for a second head where enough surface lies outside the first. Deterministic.
    """
    with FaceDetector(refine=False, min_confidence=min_confidence) as detector:
        search = _Search(drawable, caster, detector)
        fit = search.run()
        fits: tuple[FaceFit, ...] = () if fit is None else (fit,)
        if fit is not None and several:
            rest = _outside_head(drawable, fit)
            if rest is not None:
                other = _Search(rest, RayCaster(rest.vertices, rest.faces), detector, thorough=False)
                second = other.run()
                search.tries += other.tries if second is not None else []
                search.n_pictures += other.n_pictures
                fits += () if second is None else (second,)
    return FaceSearch(fits, tuple(search.tries), search.n_pictures)


def _outside_head(drawable: Drawable, fit: FaceFit) -> Drawable | None:
    """Give what lies outside a head; None if a second head has no room in it."""
    face = fit.T_scan_face
    centre = face.apply(np.array([[0.0, -20.0, -_HEAD_BEHIND_MM]]))[0]
    a, b, c = (drawable.vertices[drawable.faces[:, k]] for k in range(3))
    outside = np.linalg.norm((a + b + c) / 3 - centre, axis=1) > _HEAD_RADIUS_MM * face.scale
    area = 0.5 * np.linalg.norm(np.cross(b - a, c - a)[outside], axis=1).sum() / face.scale**2
    if area < _MIN_HEAD_AREA_MM2:
        return None
    texture = drawable.texture
    kept = drawable.faces[outside]
    used, faces = np.unique(kept, return_inverse=True)
    return replace(
        drawable,
        vertices=drawable.vertices[used],
        faces=faces.reshape(-1, 3),
        normals=drawable.normals[used],
        colours=None if drawable.colours is None else drawable.colours[used],
        texture=None if texture is None else replace(texture, uv=texture.uv[outside]),
        source_point=None if drawable.source_point is None else drawable.source_point[outside],
    )


class _Search:
    """The search on one drawable: pictures, finds, and what was tried."""

    def __init__(self, drawable: Drawable, caster: RayCaster, detector: FaceDetector, *, thorough: bool = True) -> None:
        self._caster, self._detector, self._thorough = caster, detector, thorough
        self._centre, self._radius = _bounding_ball(drawable.vertices)
        self._drawable = with_texture_for(drawable, 2 * self._radius / SEARCH_PIXELS)
        self.tries: list[Try] = []
        self.n_pictures = 0

    def run(self) -> FaceFit | None:
        """Give the first confirmed face."""
        views: list[SurfaceView] = []
        for direction, up in _axis_views():
            views.append(see(self._drawable, self._caster, self._camera(direction, up)))
            for roll in (0, 90, 180, 270):
                fit = self._look(views[-1], roll, keep=roll == 0)
                if fit is not None:
                    return fit
        for direction, up in _oblique_views():
            view = see(self._drawable, self._caster, self._camera(direction, up))
            for roll in range(0, 360, 45 if self._thorough else 90):
                fit = self._look(view, roll, keep=roll == 0)
                if fit is not None:
                    return fit
        return self._look_closer(views) if self._thorough else None

    def _look_closer(self, views: list[SurfaceView]) -> FaceFit | None:
        """Look at the rolls left out before, then for faces small in the scan, in overlapping quarters."""
        for view in views:
            for roll in (45, 135, 225, 315):
                fit = self._look(view, roll)
                if fit is not None:
                    return fit
        for direction, up in _axis_views():
            right = np.cross(up, direction)
            for x in (-0.5, 0.0, 0.5):
                for y in (0.5, 0.0, -0.5):
                    target = self._centre + self._radius * (x * right + y * up)
                    camera = framing(target, direction, up, height=self._radius, fov_rad=_FOV_RAD, pixels=SEARCH_PIXELS)
                    view = see(self._drawable, self._caster, camera)
                    if len(view.pixel) < 0.05 * SEARCH_PIXELS**2:
                        continue
                    for roll in (0, 90, 180, 270):
                        fit = self._look(view, roll)
                        if fit is not None:
                            return fit
        return None

    def _camera(self, direction: Float[ndarray, " 3"], up: Float[ndarray, " 3"]) -> Camera:
        height = 2 * self._radius / np.cos(_FOV_RAD / 2)
        return framing(self._centre, direction, up, height=height, fov_rad=_FOV_RAD, pixels=SEARCH_PIXELS)

    def _look(self, view: SurfaceView, roll_degrees: int, *, keep: bool = False) -> FaceFit | None:
        """Turn a view about the line of sight, detect, and confirm."""
        image, back = _rolled(view, self._drawable, roll_degrees)
        self.n_pictures += 1
        found = self._detector.detect(image)
        fit, verdict = self._confirm(view.camera, back(found[0])) if found else (None, "")
        if keep or verdict:
            self.tries.append(Try(_thumbnail(image), verdict))
        return fit

    def _confirm(self, camera: Camera, landmarks_px: Float[ndarray, "468 2"]) -> tuple[FaceFit | None, str]:
        """Look again, twice, from where the face should be frontal."""
        fit = fit_face(self._drawable, self._caster, camera, landmarks_px)
        # The first look may come from far aside: only the last one must pass.
        for look in range(3):
            if not np.isfinite(fit.residual_mm) or fit.verdict == "hollow":
                return None, fit.verdict
            # The detector also finds faces that stand on their head, and then takes the brow for the chin.
            fits = [self._close_up(fit, upside_down=flag) for flag in ((False, True) if look == 0 else (False,))]
            found = [item for item in fits if item is not None]
            if not found:
                return None, "not found again from the front"
            fit = min(found, key=lambda item: item.residual_mm)
            if fit.verdict == "face" and fit.turn_rad < np.radians(5):
                break
        return (fit, "face") if fit.verdict == "face" else (None, fit.verdict)

    def _close_up(self, fit: FaceFit, *, upside_down: bool) -> FaceFit | None:
        """Detect in a picture from where a face should be frontal."""
        camera = frontal_camera(fit, pixels=_CLOSE_UP_PIXELS, fov_rad=_FOV_RAD)
        if upside_down:
            camera = camera.upside_down()
        image = see(self._drawable, self._caster, camera).lit(flat=self._drawable.is_coloured)
        self.n_pictures += 1
        found = self._detector.detect(image)
        return fit_face(self._drawable, self._caster, camera, found[0]) if found else None


def _bounding_ball(vertices: Float[ndarray, "n 3"]) -> tuple[Float[ndarray, " 3"], float]:
    """Give a ball around nearly all vertices: a few loose spikes must not shrink the head in the picture."""
    sample = vertices[:: max(1, len(vertices) // 20_000)]
    lower, upper = np.quantile(sample, [0.002, 0.998], axis=0)
    centre = (lower + upper) / 2
    return centre, 1.05 * float(np.quantile(np.linalg.norm(sample - centre, axis=1), 0.998))


def _axis_views() -> Iterator[tuple[ndarray, ndarray]]:
    """Give the six views along the axes, with an up: those that scanners and modelling programs deliver come first."""
    x, y, z = np.eye(3)
    yield from ((z, y), (-y, z), (-z, y), (x, y), (-x, y), (y, z))


def _oblique_views() -> Iterator[tuple[ndarray, ndarray]]:
    """Give the views between the axes: the 8 corners and the 12 edges of a cube."""
    signs = [np.array([a, b, c], float) for c in (1, -1, 0) for b in (0, 1, -1) for a in (0, 1, -1)]
    for direction in sorted((s for s in signs if np.abs(s).sum() > 1), key=lambda s: -np.abs(s).sum()):
        yield direction, np.array([0.0, 1.0, 0.0])


def _rolled(
    view: SurfaceView, drawable: Drawable, degrees: int
) -> tuple[UInt8[ndarray, "height width 3"], Callable[[ndarray], ndarray]]:
    """Give a view turned counter-clockwise, lit from its own top, and the map of its points back to the view."""
    import cv2

    # The light turns against the picture, so that it comes from above once the picture is turned.
    image = view.lit(flat=drawable.is_coloured, roll_rad=-np.radians(degrees))
    if degrees == 0:
        return image, lambda points: points
    half = SEARCH_PIXELS / 2
    # cv2 counts from the centre of the first pixel.
    turn = cv2.getRotationMatrix2D((half - 0.5, half - 0.5), degrees, 1.0)
    turned = cv2.warpAffine(image, turn, (SEARCH_PIXELS, SEARCH_PIXELS), borderValue=(255, 255, 255))
    linear = turn[:, :2]
    return turned, lambda points: (points - half) @ linear + half


def _thumbnail(image: ndarray) -> ndarray:
    import cv2

    return cv2.resize(image, (_TILE_PIXELS, _TILE_PIXELS), interpolation=cv2.INTER_AREA)
