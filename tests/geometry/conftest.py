"""Small surfaces with known answers, for the tests of geometry; each fixture is the function that makes one."""

import numpy as np
import pytest


def make_sphere(radius: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Give a closed sphere of n rings by n segments, poles included, faces outward."""
    polar, azimuth = np.linspace(0, np.pi, n + 1)[1:-1], np.linspace(0, 2 * np.pi, n, endpoint=False)
    u, v = np.meshgrid(polar, azimuth, indexing="ij")
    ring = np.stack([np.sin(u) * np.cos(v), np.sin(u) * np.sin(v), np.cos(u)], axis=-1).reshape(-1, 3)
    vertices = radius * np.concatenate([ring, [[0, 0, 1], [0, 0, -1]]])
    a = np.arange(n - 2)[:, None] * n + np.arange(n)
    b = np.arange(n - 2)[:, None] * n + (np.arange(n) + 1) % n
    first, second = np.arange(n), (np.arange(n) + 1) % n
    last = (n - 2) * n
    parts = [
        np.stack([a, a + n, b], axis=-1).reshape(-1, 3),
        np.stack([b, a + n, b + n], axis=-1).reshape(-1, 3),
        np.stack([np.full(n, (n - 1) * n), first, second], axis=-1),
        np.stack([np.full(n, (n - 1) * n + 1), last + second, last + first], axis=-1),
    ]
    return vertices, np.concatenate(parts)


def make_cube(side: float) -> tuple[np.ndarray, np.ndarray]:
    """Give a closed cube of 12 triangles around the origin, faces outward."""
    vertices = np.array([[x, y, z] for z in (-1, 1) for y in (-1, 1) for x in (-1, 1)], float) * side / 2
    quads = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]
    faces = [f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))]
    return vertices, np.array(faces, np.int64)


def make_plane(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Give n by n unit squares in z = 0, each of two triangles, facing +z."""
    x, y = np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0))
    vertices = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    i = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).ravel()
    faces = np.concatenate([np.stack([i, i + 1, i + n + 2], axis=1), np.stack([i, i + n + 2, i + n + 1], axis=1)])
    return vertices, faces


def make_random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Give a proper rotation about any axis."""
    q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return q * np.sign(np.linalg.det(q))


@pytest.fixture(scope="session", name="sphere")
def sphere_fixture():
    return make_sphere


@pytest.fixture(scope="session", name="cube")
def cube_fixture():
    return make_cube


@pytest.fixture(scope="session", name="plane")
def plane_fixture():
    return make_plane


@pytest.fixture(scope="session", name="random_rotation")
def random_rotation_fixture():
    return make_random_rotation
