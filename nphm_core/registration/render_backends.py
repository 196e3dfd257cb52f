"""Pictures of a scan: by OpenGL without a display, or by ray casting where there is none.

Both draw the same thing: light at the vertices, interpolated over the triangle, times the scan's colour, one sample a
pixel. OpenGL's depth is never used: pyrender resolves it from one of four samples, off by a third of a pixel. What
needs a place on the surface casts rays.
"""

import ctypes
import ctypes.util
import logging
import os
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from nphm_core.geometry.rays import RayCaster
from nphm_core.registration.cameras import Camera
from nphm_core.registration.drawable import BACKGROUND, GREY, Drawable, light_of, texture_at, vertex_light
from nphm_core.registration.lean_import import bare_packages

log = logging.getLogger(__name__)

Backend = Literal["egl", "osmesa", "raycast"]
# From Mesa's osmesa.h.
_OSMESA_CONSTANTS = {
    "OSMESA_DEPTH_BITS": 0x30,
    "OSMESA_PROFILE": 0x33,
    "OSMESA_CORE_PROFILE": 0x34,
    "OSMESA_CONTEXT_MAJOR_VERSION": 0x36,
    "OSMESA_CONTEXT_MINOR_VERSION": 0x37,
}


@dataclass(frozen=True)
class SurfaceView:
    """What a camera sees, pixel by pixel, before light is put on it."""

    camera: Camera
    pixel: Int[ndarray, " n_seen"]
    """Pixels that see the scan, numbered row by row."""
    face: Int[ndarray, " n_seen"]
    barycentric: Float[ndarray, "n_seen 3"]
    normals: Float[ndarray, "n_seen 3"]
    """Unit, in the camera's frame, facing it."""
    albedo: Float[ndarray, "n_seen 3"]

    def lit(self, *, flat: bool, roll_rad: float = 0.0) -> UInt8[ndarray, "height width 3"]:
        """Give the picture under light that is turned about the line of sight."""
        light = light_of(self.normals, flat=flat, roll_rad=roll_rad)
        return _picture(self.camera, self.pixel, self.albedo * light[:, None])


def see(drawable: Drawable, caster: RayCaster, camera: Camera) -> SurfaceView:
    """Cast a ray through every pixel."""
    hits = caster.cast(*camera.rays(camera.pixel_centres()))
    pixel = np.flatnonzero(hits.face >= 0)
    face, bary = hits.face[pixel], hits.barycentric[pixel]
    corner = drawable.faces[face]
    normals = _interpolated(drawable.normals, corner, bary) @ camera.axes.T
    normals *= np.where(normals[:, 2:] < 0, -1.0, 1.0)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    return SurfaceView(camera, pixel, face, bary, normals, _albedo(drawable, face, corner, bary))


def _interpolated(values: ndarray, corner: ndarray, bary: ndarray) -> ndarray:
    out = values[corner[:, 0]] * bary[:, :1]
    out += values[corner[:, 1]] * bary[:, 1:2]
    out += values[corner[:, 2]] * bary[:, 2:]
    return out


def _albedo(drawable: Drawable, face: ndarray, corner: ndarray, bary: ndarray) -> ndarray:
    if drawable.texture is not None:
        return texture_at(drawable.texture, face, bary)
    if drawable.colours is not None:
        return _interpolated(drawable.colours, corner, bary)
    return np.full((len(face), 3), GREY)


def _picture(camera: Camera, pixel: ndarray, colour: ndarray) -> ndarray:
    image = np.full((camera.height * camera.width, 3), round(BACKGROUND * 255), np.uint8)
    image[pixel] = np.clip(np.round(colour * 255), 0, 255)
    return image.reshape(camera.height, camera.width, 3)


class RaycastRenderer:
    """Draws by casting rays; needs no OpenGL."""

    backend: Backend = "raycast"

    def __init__(self, drawable: Drawable, caster: RayCaster) -> None:
        self._drawable, self._caster = drawable, caster

    def render(self, camera: Camera) -> UInt8[ndarray, "height width 3"]:
        """Draw a picture, sRGB."""
        view = see(self._drawable, self._caster, camera)
        light = vertex_light(self._drawable, camera)
        shade = _interpolated(light[:, None], self._drawable.faces[view.face], view.barycentric)
        return _picture(camera, view.pixel, view.albedo * shade)

    def close(self) -> None:
        """Do nothing: rays hold no context."""


class OpenGLRenderer:
    """Draws by pyrender on EGL or OSMesa; `render` for one picture size only, `close` when done."""

    def __init__(self, drawable: Drawable, backend: Literal["egl", "osmesa"], width: int, height: int) -> None:
        # The platform is chosen when PyOpenGL is imported, and never again in this process.
        os.environ["PYOPENGL_PLATFORM"] = backend
        if backend == "osmesa":
            _complete_osmesa()
        self._pyrender = _import_pyrender()
        self.backend: Backend = backend
        self._drawable = drawable
        # A corner of its own for every triangle where the texture needs it; shared vertices otherwise.
        self._soup = drawable.texture is not None
        faces = drawable.faces
        self._positions = drawable.vertices[faces].reshape(-1, 3) if self._soup else drawable.vertices
        self._indices = np.arange(len(self._positions)).reshape(-1, 3) if self._soup else faces
        self._material = self._make_material()
        self._renderer = self._pyrender.OffscreenRenderer(width, height)

    def _make_material(self) -> Any:
        p = self._pyrender
        texture = self._drawable.texture
        if texture is None:
            return p.MetallicRoughnessMaterial(baseColorFactor=(1.0, 1.0, 1.0, 1.0), doubleSided=True)
        # Four channels: rows of three bytes a texel break OpenGL's alignment of four.
        image = np.dstack([texture.image, np.full(texture.image.shape[:2], 255, np.uint8)])
        sampler = p.Sampler(magFilter=9729, minFilter=9729, wrapS=10497, wrapT=10497)  # linear, repeating
        source = p.Texture(source=image, source_channels="RGBA", sampler=sampler)
        return p.MetallicRoughnessMaterial(baseColorTexture=source, doubleSided=True)

    def render(self, camera: Camera) -> UInt8[ndarray, "height width 3"]:
        """Draw a picture, sRGB."""
        p, drawable = self._pyrender, self._drawable
        # float32 in the camera's neighbourhood: scans may lie far from their origin.
        local = self._positions @ camera.axes.T + camera.T_camera_scan[:3, 3]
        depth = -local[:, 2]
        colour = self._vertex_colours(camera)
        uv = drawable.texture.uv.reshape(-1, 2) if drawable.texture is not None else None
        unit = float(depth.max())
        primitive = p.Primitive(
            local / unit, indices=self._indices, color_0=colour, texcoord_0=uv, material=self._material, mode=4
        )
        near = max(float(depth.min()) / unit * 0.99, 1e-3)
        lens = p.IntrinsicsCamera(
            camera.focal_px, camera.focal_px, camera.width / 2, camera.height / 2, znear=near, zfar=1.01
        )
        scene = p.Scene(bg_color=[BACKGROUND] * 3 + [1.0], ambient_light=[1.0] * 3)
        scene.add(p.Mesh([primitive]))
        scene.add(lens, pose=np.eye(4))
        with warnings.catch_warnings():
            # PyOpenGL 3.1.0, which pyrender pins, still calls it.
            warnings.filterwarnings("ignore", "tostring", DeprecationWarning)
            image, _ = self._renderer.render(scene, flags=p.RenderFlags.FLAT | p.RenderFlags.SKIP_CULL_FACES)
        return np.array(image)

    def _vertex_colours(self, camera: Camera) -> ndarray:
        drawable = self._drawable
        light = vertex_light(drawable, camera)[:, None]
        if self._soup:
            rgb = np.repeat(light[drawable.faces.ravel()], 3, axis=1)
        else:
            rgb = (GREY if drawable.colours is None else drawable.colours) * light * np.ones(3)
        return np.hstack([rgb, np.ones((len(rgb), 1))])

    def close(self) -> None:
        """Give the context back."""
        self._renderer.delete()


def _complete_osmesa() -> None:
    """Give PyOpenGL 3.1.0, which pyrender pins, what pyrender asks of OSMesa and only later versions have."""
    from OpenGL import osmesa, platform

    if hasattr(osmesa, "OSMesaCreateContextAttribs"):
        return
    create = platform.PLATFORM.OSMesa.OSMesaCreateContextAttribs
    create.argtypes, create.restype = [ctypes.POINTER(ctypes.c_int), ctypes.c_void_p], osmesa.OSMesaContext

    def create_context(attributes: Any, shared: Any) -> Any:
        values = [int(value) for value in attributes]
        return create((ctypes.c_int * len(values))(*values), shared)

    # PyOpenGL keeps a table by contexts, and makes a new pointer each time it asks for the present one.
    osmesa.OSMesaContext.__hash__ = lambda context: hash(context.address)
    osmesa.OSMesaContext.__eq__ = lambda context, other: context.address == getattr(other, "address", None)
    osmesa.OSMesaCreateContextAttribs = create_context
    for name, value in _OSMESA_CONSTANTS.items():
        setattr(osmesa, name, value)


def _import_pyrender() -> Any:
    """Import what draws without a window, and neither pyrender's viewer nor all of trimesh."""
    with bare_packages("pyrender", keep=True), bare_packages("trimesh"):
        import pyrender.renderer
        from pyrender.camera import IntrinsicsCamera
        from pyrender.constants import RenderFlags
        from pyrender.material import MetallicRoughnessMaterial
        from pyrender.mesh import Mesh
        from pyrender.offscreen import OffscreenRenderer
        from pyrender.primitive import Primitive
        from pyrender.sampler import Sampler
        from pyrender.scene import Scene
        from pyrender.texture import Texture

    _draw_one_sample_a_pixel(pyrender.renderer)
    return SimpleNamespace(
        IntrinsicsCamera=IntrinsicsCamera,
        MetallicRoughnessMaterial=MetallicRoughnessMaterial,
        Mesh=Mesh,
        OffscreenRenderer=OffscreenRenderer,
        Primitive=Primitive,
        RenderFlags=RenderFlags,
        Sampler=Sampler,
        Scene=Scene,
        Texture=Texture,
    )


def _draw_one_sample_a_pixel(renderer_module: Any) -> None:
    """Switch pyrender's fixed fourfold sampling off: two to three times faster, and the same picture as by rays."""
    original = renderer_module.glRenderbufferStorageMultisample
    if getattr(original, "draws_one_sample", False):
        return

    def one_sample(target: int, samples: int, layout: int, width: int, height: int) -> Any:
        return original(target, 0, layout, width, height)

    one_sample.draws_one_sample = True  # type: ignore[attr-defined]
    renderer_module.glRenderbufferStorageMultisample = one_sample


def available_backends() -> list[Backend]:
    """Give what this machine seems to have, best first; `raycast` always comes last."""
    out: list[Backend] = []
    for backend, library in (("egl", "libEGL.so.1"), ("osmesa", "libOSMesa.so.8")):
        name = ctypes.util.find_library(library.split(".")[0].removeprefix("lib")) or library
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        out.append(backend)  # type: ignore[arg-type]
    return [*out, "raycast"]


def open_renderer(
    drawable: Drawable, caster: RayCaster, backend: Literal["auto", "egl", "osmesa", "raycast"], camera: Camera
) -> RaycastRenderer | OpenGLRenderer:
    """Open a renderer for pictures of a camera's size.

    `auto` takes EGL, then OSMesa, then rays, and says in the log why one was passed over. A named one that fails raises
    what OpenGL says.
    """
    if backend == "raycast":
        return RaycastRenderer(drawable, caster)
    if backend != "auto":
        return OpenGLRenderer(drawable, backend, camera.width, camera.height)
    first = available_backends()[0]
    if first != "raycast":
        try:
            return OpenGLRenderer(drawable, first, camera.width, camera.height)
        # OpenGL's failures have no common type: missing symbols, drivers, display managers. Rays never fail.
        except Exception as error:
            log.warning("no OpenGL by %s (%s); drawing by ray casting", first, error)
    return RaycastRenderer(drawable, caster)
