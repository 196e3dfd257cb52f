"""A sphere as a head, and a field that knows its signed distance."""

import numpy as np
import pytest
import torch

from nphm_core.geometry.subdivision import subdivided_faces, subdivision_hierarchy
from nphm_core.supervision.samples import DistanceSamples, SdfSamples, SurfaceSamples

CPU = torch.device("cpu")


def make_sphere(levels: int, radius: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Subdivide an octahedron, with vertices on the sphere, triangles outward."""
    vertices = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    steps = subdivision_hierarchy(faces, 6, levels, scheme="midpoint")
    for step in steps:
        vertices = step.matrix @ vertices
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    return radius * vertices, subdivided_faces(steps, faces)[0]


def sphere_samples(radius: float, n: int, seed: int, *, n_rest: int | None = None) -> SdfSamples:
    """Samples of a ball's signed distance."""
    rng = np.random.default_rng(seed)

    def directions(k):
        d = rng.standard_normal((k, 3))
        return d / np.linalg.norm(d, axis=1, keepdims=True)

    def surface(k):
        d = directions(k)
        return SurfaceSamples(radius * d, d)

    def distance(k, spread):
        r = radius + spread * rng.standard_normal(k)
        return DistanceSamples(r[:, None] * directions(k), np.abs(r) - radius, rng.random(k) < 0.9)

    return SdfSamples(surface(n), surface(n if n_rest is None else n_rest), distance(n, 0.02), distance(n // 2, 0.3))


@pytest.fixture(scope="session")
def small_sphere() -> tuple[np.ndarray, np.ndarray]:
    """A sphere of 0.4 canonical units, 2,048 triangles."""
    return make_sphere(4)
