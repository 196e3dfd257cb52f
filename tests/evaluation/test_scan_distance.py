"""Distances to meshes and clouds with known answers."""

import numpy as np
import pytest

from nphm_core.evaluation.scan_distance import MeasuredScan
from nphm_core.geometry.mesh import Mesh


def _points(n: int, radius: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    normals = np.random.default_rng(seed).standard_normal((n, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return radius * normals, normals


def test_points_above_a_mesh_are_as_far_as_they_were_put(ball):
    points, normals = _points(500, 80.4)
    found = MeasuredScan(ball).distances(points, normals, max_distance_mm=10.0)
    # The sphere's triangles lie up to 0.03 mm below it.
    assert np.abs(found.distance - 0.4).max() < 0.035
    assert np.abs(found.plane - 0.4).max() < 0.035
    assert (found.agreement > 0.99).all()
    assert not found.at_border.any()


def test_normals_that_look_away_disagree(ball):
    points, normals = _points(100, 80.0)
    assert (MeasuredScan(ball).distances(points, -normals, max_distance_mm=10.0).agreement < -0.99).all()


def test_what_is_beyond_the_limit_has_no_distance(ball):
    points, normals = _points(50, 95.0)
    found = MeasuredScan(ball).distances(points, normals, max_distance_mm=10.0)
    assert np.isinf(found.distance).all()
    assert np.isinf(found.plane).all()
    assert (found.agreement == -1).all()


def test_points_over_a_hole_are_at_the_border(ball):
    open_ball = Mesh(ball.vertices, ball.faces[(ball.vertices[ball.faces][:, :, 2] < 60).all(1)])
    points, normals = _points(3000, 80.0)
    found = MeasuredScan(open_ball).distances(points, normals, max_distance_mm=60.0)
    assert found.at_border[points[:, 2] > 62].all()
    assert not found.at_border[points[:, 2] < 58].any()


@pytest.mark.parametrize("has_normals", [True, False])
def test_a_noisy_cloud_is_measured_as_the_surface_under_it(has_normals):
    rng = np.random.default_rng(1)
    cloud, normals = _points(60_000, 80.0, seed=2)
    noisy = cloud + 0.1 * rng.standard_normal(cloud.shape)
    scan = Mesh(noisy, np.zeros((0, 3), np.int64), normals if has_normals else None)
    points, up = _points(500, 80.5, seed=3)
    found = MeasuredScan(scan).distances(points, up, max_distance_mm=10.0)
    # Spacing is 1.2 mm: to the closest point it would be 0.8 mm.
    assert abs(np.median(found.distance) - 0.5) < 0.02
    assert (found.agreement > 0.8).all()
    assert found.at_border.mean() < 0.01


def test_points_beside_a_cloud_are_at_its_border():
    x, y = np.meshgrid(np.arange(30.0), np.arange(30.0))
    plane = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], axis=1)
    scan = Mesh(plane, np.zeros((0, 3), np.int64), np.tile([0.0, 0, 1], (len(plane), 1)))
    points = np.array([[15.0, 15, 0.2], [36.0, 15, 0.2]])
    found = MeasuredScan(scan).distances(points, np.array([[0.0, 0, 1]] * 2), max_distance_mm=10.0)
    assert found.at_border.tolist() == [False, True]
    assert np.allclose(found.distance, 0.2)
