"""Points of meshes and clouds, with outward normals; what cannot be used is left out or refused."""

import numpy as np
import pytest

from nphm_core.errors import FittingError
from nphm_core.fitting.observations import Observation, checked_observation, observe_mesh
from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.subdivision import subdivided_faces, subdivision_hierarchy


def ball() -> Mesh:
    vertices = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    steps = subdivision_hierarchy(faces, 6, 4, scheme="midpoint")
    for step in steps:
        vertices = step.matrix @ vertices
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    return Mesh(vertices, subdivided_faces(steps, faces)[0])


def test_points_of_a_surface_have_its_normals() -> None:
    seen = observe_mesh(ball(), 300, rng=np.random.default_rng(0))
    assert seen.points.shape == (300, 3)
    assert ((seen.points * seen.normals).sum(axis=1) > 0.98).all()


def test_a_cloud_without_normals_gets_outward_ones() -> None:
    cloud = Mesh(ball().vertices, np.zeros((0, 3), np.int64))
    seen = observe_mesh(cloud, 200, rng=np.random.default_rng(0))
    assert seen.points.shape == (200, 3)
    assert ((seen.points * seen.normals).sum(axis=1) > 0.95).all()


def test_unusable_points_are_left_out_with_what_belongs_to_them() -> None:
    points = np.random.default_rng(0).standard_normal((100, 3))
    points[3] = np.nan
    weights = np.ones(100)
    weights[7] = 0
    normals = 3 * points
    normals[9] = 0
    kept = checked_observation(Observation(points, normals, weights))
    assert len(kept.points) == len(kept.weights) == len(kept.normals) == 98
    assert np.allclose(np.sort(np.linalg.norm(kept.normals, axis=1))[:2], [0, 1])


def test_hardly_any_points_are_refused() -> None:
    with pytest.raises(FittingError, match="the scan has 7 usable points; expected at least 50"):
        checked_observation(Observation(np.zeros((7, 3))))
