"""Single views of a ball: where the points lie, how noisy they are, and what stays the same."""

import numpy as np
import pytest

from nphm_core.supervision.samples import Plane
from nphm_core.synthetic.observation import observe

_RADIUS = 0.4
_THROAT = Plane(np.array([0.0, -0.2, 0.0]), np.array([0.0, 1.0, 0.0]))


def _view(ball, noise_mm: float, seed: int = 0):
    vertices, faces = ball
    return observe(_RADIUS * vertices, faces, _THROAT, noise_mm=noise_mm, rng=np.random.default_rng(seed))


def test_points_lie_on_the_side_of_the_camera_and_above_the_throat(ball):
    view = _view(ball, 0.0)
    assert view.points.shape == (2500, 3)
    np.testing.assert_allclose(np.linalg.norm(view.points, axis=1), _RADIUS, atol=1e-3)
    assert (view.points @ view.direction).min() > 0
    assert view.points[:, 1].min() >= -0.2


def test_views_are_frontal(ball):
    directions = np.stack([_view(ball, 0.0, seed).direction for seed in range(12)])
    assert ((directions[:, 2] > 0.6) & (directions[:, 2] < 0.9)).all()
    assert (np.abs(directions[:, 1]) < 0.55).all()
    assert np.ptp(directions[:, 0]) > 0.5


@pytest.mark.parametrize("noise_mm", [0.5, 1.5])
def test_noise_has_the_stated_size_along_all_axes(ball, noise_mm):
    clean, noisy = _view(ball, 0.0), _view(ball, noise_mm)
    np.testing.assert_array_equal(clean.direction, noisy.direction)
    std_mm = 250 * (noisy.points - clean.points).std(0)
    np.testing.assert_allclose(std_mm, noise_mm, rtol=0.06)


@pytest.mark.parametrize(("noise_mm", "degrees"), [(0.0, 1.0), (0.5, 6.0), (1.5, 8.0)])
def test_normals_are_those_of_the_surface(ball, noise_mm, degrees):
    view = _view(ball, noise_mm)
    radial = _view(ball, 0.0).points / _RADIUS
    np.testing.assert_allclose(np.linalg.norm(view.normals, axis=1), 1.0, atol=1e-9)
    angle = np.degrees(np.arccos(np.clip((view.normals * radial).sum(1), -1, 1)))
    assert np.median(angle) < degrees


def test_the_same_seed_sees_the_same(ball):
    np.testing.assert_array_equal(_view(ball, 0.5, 3).points, _view(ball, 0.5, 3).points)
