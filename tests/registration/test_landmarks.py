import dataclasses

import numpy as np
import pytest

from nphm_core.config import LandmarksConfig
from nphm_core.errors import LandmarkError
from nphm_core.registration.cameras import framing
from nphm_core.registration.landmarks import agree, detect_landmarks, triangulate


def _cameras():
    frontal = framing(np.zeros(3), np.array([0, 0, 1.0]), np.array([0, 1.0, 0]), height=300.0, fov_rad=0.35, pixels=600)
    turns = ((0, 0), (15, 0), (-15, 0), (30, 0), (-30, 0), (0, 12), (0, -12))
    return tuple(frontal.turned(np.zeros(3), np.radians(yaw), np.radians(pitch)) for yaw, pitch in turns)


def _points():
    points = np.random.default_rng(1).uniform([-60, -80, -20], [60, 80, 20], (468, 3))
    points[33], points[263] = [-45, 30, 0], [45, 30, 0]
    return points


def test_lines_of_sight_meet_at_the_points():
    cameras, points = _cameras(), _points()
    pixels = np.stack([camera.project(points) for camera in cameras])
    found = agree(pixels, cameras)
    np.testing.assert_allclose(found.points, points, atol=1e-6)
    assert found.spread_px.max() < 1e-6
    assert found.used.all()
    np.testing.assert_allclose(found.eye_distance, 90)
    np.testing.assert_allclose(found.px_per_unit, 2.0, rtol=1e-6)


def test_a_wrong_view_is_dropped():
    cameras, points = _cameras(), _points()
    rng = np.random.default_rng(0)
    pixels = np.stack([camera.project(points) for camera in cameras]) + rng.normal(0, 1.0, (7, 468, 2))
    pixels[4] = pixels[4] * 0.8 + 90
    found = agree(pixels, cameras)
    np.testing.assert_array_equal(found.used, [True, True, True, True, False, True, True])
    assert np.median(np.linalg.norm(found.points - points, axis=1)) < 1.0


def test_a_single_wrong_landmark_does_not_move_the_point():
    cameras, points = _cameras(), _points()
    rng = np.random.default_rng(0)
    pixels = np.stack([camera.project(points) for camera in cameras]) + rng.normal(0, 0.5, (7, 468, 2))
    pixels[2, 10:20] += 60
    found = triangulate(pixels, cameras, np.ones(7, bool))
    assert np.linalg.norm(found[10:20] - points[10:20], axis=1).max() < 3.0


def test_views_without_a_face_are_left_out():
    cameras, points = _cameras(), _points()
    pixels = np.stack([camera.project(points) for camera in cameras])
    pixels[[3, 4]] = np.nan
    found = agree(pixels, cameras)
    assert found.quality["n_views"] == 5
    assert found.quality["n_views_used"] == 5
    np.testing.assert_allclose(found.points, points, atol=1e-6)


def test_too_few_views_are_an_error():
    cameras, points = _cameras(), _points()
    pixels = np.stack([camera.project(points) for camera in cameras])
    pixels[2:] = np.nan
    with pytest.raises(LandmarkError, match="only 2 of 7 views"):
        agree(pixels, cameras)


def test_pictures_without_a_face_are_an_error():
    images = np.full((7, 128, 128, 3), 200, np.uint8)
    cameras = tuple(dataclasses.replace(camera, width=128, height=128) for camera in _cameras())
    with pytest.raises(LandmarkError, match="only 0 of 7 views"):
        detect_landmarks(images, cameras, LandmarksConfig(), is_coloured=False)
