"""Meshes packed for the browser: what a slow reader of the format unpacks is what was packed."""

import base64
import json
import re
import zlib

import numpy as np
import pytest

from nphm_core.geometry.mesh import Mesh, Texture
from nphm_core.report.head_3d import head_script, topology_script, view_mesh
from nphm_core.spaces import Similarity


def _sphere(n=60):
    theta, phi = np.meshgrid(
        np.linspace(0.1, np.pi - 0.1, n), np.linspace(0, 2 * np.pi, n, endpoint=False), indexing="ij"
    )
    vertices = 90 * np.stack([np.sin(theta) * np.cos(phi), np.cos(theta), np.sin(theta) * np.sin(phi)], -1).reshape(
        -1, 3
    )
    grid = np.arange(n * n).reshape(n, n)
    a, b = grid[:-1], np.roll(grid[:-1], -1, axis=1)
    c, d = grid[1:], np.roll(grid[1:], -1, axis=1)
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])
    return Mesh(vertices, faces)


def _unpacked(script: str, function: str) -> tuple[dict, bytes]:
    found = re.fullmatch(rf"nphm\.{function}\((.*)\);\n", script)
    facts = json.loads(found[1])
    return facts, zlib.decompress(base64.b64decode(facts["data"]))


def _columns(data: bytes, at: int, n: int, n_columns: int, size: int) -> tuple[np.ndarray, int]:
    """The format's definition, a number at a time."""
    out = np.zeros((n, n_columns), np.int64)
    for column in range(n_columns):
        start, value = at + column * n * size, 0
        for k in range(n):
            value = (value + sum(data[start + byte * n + k] << (8 * byte) for byte in range(size))) % 256**size
            out[k, column] = value
    return out, at + n_columns * n * size


@pytest.fixture(scope="module")
def packed():
    sphere = _sphere()
    scan = Mesh(sphere.vertices, sphere.faces, colours=np.full((sphere.n_vertices, 3), [10, 200, 30], np.uint8))
    registered = sphere.vertices[:500]
    distance = np.linspace(0, 1.0, 500)
    script = head_script(
        "s01/smile", scan, registered, distance, np.arange(500) % 7 != 0, Similarity.identity(),
        n_scan_vertices=400, colour_max_mm=0.5,
    )  # fmt: skip
    return registered, distance, *_unpacked(script, "head")


def test_positions_come_back_within_the_box_by_sixteen_bits(packed):
    registered, _, facts, data = packed
    steps, _ = _columns(data, 0, 500, 3, 2)
    part = facts["parts"][0]
    positions = np.array(part["low"]) + steps / 65535 * np.array(part["size"])
    assert np.abs(positions - registered).max() < 0.005


def test_errors_come_back_and_unmeasured_ones_are_marked(packed):
    _, distance, _, data = packed
    _, at = _columns(data, 0, 500, 3, 2)
    error = _columns(data, at, 500, 1, 1)[0][:, 0]
    assert (error[::7] == 255).all()
    measured = np.arange(500) % 7 != 0
    assert np.abs(error[measured] / 254 * 0.5 - np.minimum(distance, 0.5)[measured]).max() < 0.0011


def test_the_scan_comes_back_with_its_faces_and_colours(packed):
    _, _, facts, data = packed
    part, at = facts["parts"][1], 500 * 7
    assert part["n"] <= 400
    steps, at = _columns(data, at, part["n"], 3, 2)
    faces, at = _columns(data, at, part["n_faces"], 3, 2)
    colours, at = _columns(data, at, part["n"], 3, 1)
    assert at == len(data)
    assert faces.max() < part["n"]
    assert (colours == [10, 200, 30]).all()
    positions = np.array(part["low"]) + steps / 65535 * np.array(part["size"])
    assert np.abs(np.linalg.norm(positions, axis=1) - 90).max() < 4


def test_a_shared_topology_comes_back():
    faces = _sphere().faces
    facts, data = _unpacked(topology_script(faces), "topology")
    assert (facts["n_faces"], facts["bytes"]) == (len(faces), 2)
    assert (_columns(data, 0, len(faces), 3, 2)[0] == faces).all()


def test_a_small_scan_stays_as_it_is():
    sphere = _sphere(12)
    small = view_mesh(sphere, 8000)
    assert (small.vertices == sphere.vertices).all()
    assert (small.faces == sphere.faces).all()


def test_a_cloud_keeps_to_the_limit_and_has_no_faces():
    cloud = Mesh(_sphere(120).vertices, np.zeros((0, 3), np.int64))
    small = view_mesh(cloud, 1000)
    assert 300 < len(small.vertices) <= 1000
    assert len(small.faces) == 0


def test_a_textured_scan_has_the_textures_colours():
    sphere = _sphere(20)
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 250
    uv = np.full((sphere.n_faces, 3, 2), 0.5)
    uv[..., 0] = np.where(sphere.vertices[sphere.faces][..., 0] > 0, 0.8, 0.2)
    small = view_mesh(Mesh(sphere.vertices, sphere.faces, texture=Texture(uv, image)), 8000)
    assert (small.colours[sphere.vertices[:, 0] > 1] == 250).all()
    assert (small.colours[sphere.vertices[:, 0] < -1] == 0).all()
