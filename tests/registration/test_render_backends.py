import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

from nphm_core.geometry.mesh import Mesh, Texture
from nphm_core.geometry.rays import RayCaster
from nphm_core.registration.cameras import framing
from nphm_core.registration.drawable import drawable_of
from nphm_core.registration.render_backends import OpenGLRenderer, RaycastRenderer, available_backends, open_renderer

_BACKEND_VARIABLE = "NPHM_TEST_BACKEND"


def _wavy_ball() -> Mesh:
    """A ball with waves and holes: smooth shading, silhouettes, both sides of the surface."""
    u, v = np.meshgrid(np.linspace(0, np.pi, 61), np.linspace(0, 2 * np.pi, 121), indexing="ij")
    r = 1 + 0.08 * np.sin(6 * u) * np.cos(5 * v)
    points = np.stack([r * np.sin(u) * np.cos(v), r * np.cos(u), r * np.sin(u) * np.sin(v)], axis=-1).reshape(-1, 3)
    i, j = (a.ravel() for a in np.meshgrid(np.arange(60), np.arange(120), indexing="ij"))
    a, b, c, d = i * 121 + j, i * 121 + j + 1, (i + 1) * 121 + j + 1, (i + 1) * 121 + j
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    hole = (i % 20 < 5) & (j % 30 < 8)
    return Mesh(points, faces[~np.concatenate([hole, hole])])


def _camera(centre: np.ndarray | None = None, pixels: int = 256):
    place = np.zeros(3) if centre is None else centre
    direction, up = np.array([0.3, 0.2, 1.0]), np.array([0, 1.0, 0])
    return framing(place, direction, up, height=2.6, fov_rad=0.35, pixels=pixels)


def _looks(mesh: Mesh) -> dict[str, Mesh]:
    uv = mesh.vertices[mesh.faces][:, :, :2] * 0.4 + 0.5
    x, y = np.meshgrid(np.arange(64), np.arange(48))
    image = np.stack([128 + 100 * np.sin(x / 5), 128 + 100 * np.cos(y / 7), 2.0 * (x + y)], axis=-1).astype(np.uint8)
    colours = (mesh.vertices * 60 + 128).astype(np.uint8)
    return {
        "grey": mesh,
        "colours": dataclasses.replace(mesh, colours=colours),
        "texture": dataclasses.replace(mesh, texture=Texture(uv, image)),
    }


@pytest.mark.parametrize("look", ["grey", "colours", "texture"])
def test_opengl_and_rays_draw_the_same_picture(look):
    backend = os.environ.get(_BACKEND_VARIABLE, available_backends()[0])
    if backend == "raycast":
        pytest.skip("no OpenGL here")
    drawable = drawable_of(_looks(_wavy_ball())[look])
    caster = RayCaster(drawable.vertices, drawable.faces)
    renderer = OpenGLRenderer(drawable, backend, 256, 256)
    gl = renderer.render(_camera()).astype(int)
    renderer.close()
    rays = RaycastRenderer(drawable, caster).render(_camera()).astype(int)
    difference = np.abs(gl - rays).max(axis=2)
    # Grey levels of 255: all but the pixels on silhouettes agree to two levels.
    assert difference.mean() < 0.5
    assert (difference > 2).mean() < 0.005
    assert (rays < 250).any(axis=2).mean() > 0.3


@pytest.mark.skipif("osmesa" not in available_backends(), reason="no OSMesa here")
def test_osmesa_draws_the_same_picture_too():
    # PyOpenGL keeps to one platform in a process.
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", "opengl_and_rays"]
    done = subprocess.run(command, env=os.environ | {_BACKEND_VARIABLE: "osmesa"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_a_picture_does_not_depend_on_the_place_or_on_which_side_faces_out():
    mesh, shift = _wavy_ball(), np.array([3e4, -2e4, 1e4])
    images = []
    for vertices, faces, centre in (
        (mesh.vertices, mesh.faces, np.zeros(3)),
        (mesh.vertices + shift, mesh.faces, shift),
        (mesh.vertices, mesh.faces[:, ::-1], np.zeros(3)),
    ):
        drawable = drawable_of(Mesh(vertices, faces))
        images.append(RaycastRenderer(drawable, RayCaster(vertices, faces)).render(_camera(centre)).astype(int))
    for other in images[1:]:
        assert (np.abs(other - images[0]).max(axis=2) > 2).mean() < 1e-3


def test_rays_need_no_opengl_and_auto_falls_back(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", _no_library)
    assert available_backends() == ["raycast"]
    drawable = drawable_of(_wavy_ball())
    renderer = open_renderer(drawable, RayCaster(drawable.vertices, drawable.faces), "auto", _camera())
    assert renderer.backend == "raycast"
    assert renderer.render(_camera(pixels=64)).shape == (64, 64, 3)
    renderer.close()


def _no_library(name, *args, **kwargs):
    raise OSError(name)


def test_a_driver_that_fails_is_said_and_passed_over(monkeypatch, caplog):
    monkeypatch.setattr("nphm_core.registration.render_backends.available_backends", lambda: ["egl", "raycast"])
    monkeypatch.setattr("nphm_core.registration.render_backends.OpenGLRenderer", _broken_driver)
    drawable = drawable_of(_wavy_ball())
    renderer = open_renderer(drawable, RayCaster(drawable.vertices, drawable.faces), "auto", _camera())
    assert renderer.backend == "raycast"
    assert "no display" in caplog.text


def _broken_driver(*args):
    raise RuntimeError("no display")
