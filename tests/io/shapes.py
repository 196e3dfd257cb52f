"""Small surfaces that tests write in many formats."""

import numpy as np

from nphm_core.geometry.mesh import Mesh, Texture


def sphere(n_rings: int = 24, radius: float = 1.0, centre=(0.0, 0.0, 0.0)) -> Mesh:
    """Give a closed sphere of latitude rings, triangles counter-clockwise seen from outside."""
    n = 2 * n_rings
    polar, around = np.meshgrid(np.pi * np.arange(1, n_rings) / n_rings, 2 * np.pi * np.arange(n) / n, indexing="ij")
    ring = np.stack([np.sin(polar) * np.cos(around), np.cos(polar), -np.sin(polar) * np.sin(around)], axis=-1)
    vertices = np.concatenate([[[0, 1, 0]], ring.reshape(-1, 3), [[0, -1, 0]]])
    a = 1 + np.arange((n_rings - 2) * n)
    right = a - (a - 1) % n + a % n
    last = 1 + (n_rings - 2) * n + np.arange(n)
    top = 1 + np.arange(n)
    faces = np.concatenate(
        [
            np.stack([np.zeros(n, int), top, 1 + np.arange(1, n + 1) % n], axis=1),
            np.stack([a, a + n, right], axis=1),
            np.stack([right, a + n, right + n], axis=1),
            np.stack([last, np.full(n, len(vertices) - 1), last[0] + np.arange(1, n + 1) % n], axis=1),
        ]
    )
    return Mesh(vertices * radius + np.array(centre), faces.astype(np.int64))


def open_sphere(n_rings: int = 24, radius: float = 1.0) -> Mesh:
    """Give a sphere without its lowest part: a bowl with one boundary loop, all vertices kept."""
    mesh = sphere(n_rings, radius)
    keep = mesh.vertices[mesh.faces].mean(axis=1)[:, 1] > -0.6 * radius
    return Mesh(mesh.vertices, mesh.faces[keep])


def textured_sphere(n_rings: int = 8) -> Mesh:
    """Give a sphere whose texture has a seam: coordinates differ between the corners of one vertex."""
    mesh = sphere(n_rings)
    uv = np.random.default_rng(0).random((mesh.n_faces, 3, 2)).round(4)
    image = np.random.default_rng(1).integers(0, 255, (8, 16, 3)).astype(np.uint8)
    colours = np.random.default_rng(2).integers(0, 255, (mesh.n_vertices, 3)).astype(np.uint8)
    return Mesh(mesh.vertices, mesh.faces, None, colours, Texture(uv, image))
