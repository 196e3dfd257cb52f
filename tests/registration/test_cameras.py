import numpy as np

from nphm_core.registration.cameras import framing, look_at


def _camera():
    return look_at(
        np.array([1.0, 2.0, 3.0]), np.array([0.3, -0.2, 1.0]), np.array([0.0, 1.0, 0.1]), 5.0, 300.0, 200, 100
    )


def test_a_ray_through_a_projection_meets_the_point():
    camera = _camera()
    points = np.random.default_rng(0).normal([1, 2, 3], 0.5, (20, 3))
    origins, directions = camera.rays(camera.project(points))
    offset = points - origins
    np.testing.assert_allclose(np.cross(offset, directions), 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-14)
    assert ((offset * directions).sum(1) > 0).all()


def test_the_target_lies_in_the_middle_at_the_given_distance():
    camera = _camera()
    target = np.array([[1.0, 2.0, 3.0]])
    np.testing.assert_allclose(camera.project(target), [[100, 50]], atol=1e-10)
    np.testing.assert_allclose(camera.depth(target), [5.0])


def test_up_is_up_and_right_is_right():
    camera = framing(np.zeros(3), np.array([0, 0, 1.0]), np.array([0, 1.0, 0]), height=2.0, fov_rad=0.3, pixels=100)
    np.testing.assert_allclose(camera.project(np.array([[0, 1.0, 0], [1.0, 0, 0]])), [[50, 0], [100, 50]], atol=1e-9)
    np.testing.assert_allclose(camera.upside_down().project(np.array([[0, 1.0, 0]])), [[50, 100]], atol=1e-9)


def test_points_behind_the_camera_have_no_projection():
    camera = framing(np.zeros(3), np.array([0, 0, 1.0]), np.array([0, 1.0, 0]), height=2.0, fov_rad=0.3, pixels=100)
    assert np.isnan(camera.project(np.array([[0.0, 0.0, 100.0]]))).all()


def test_turning_keeps_the_distance_and_looks_at_the_pivot():
    camera = framing(np.zeros(3), np.array([0, 0, 1.0]), np.array([0, 1.0, 0]), height=2.0, fov_rad=0.3, pixels=100)
    distance = np.linalg.norm(camera.position)
    right = camera.turned(np.zeros(3), np.radians(30), 0.0)
    above = camera.turned(np.zeros(3), 0.0, np.radians(30))
    np.testing.assert_allclose(right.position, distance * np.array([0.5, 0, np.sqrt(0.75)]), atol=1e-9)
    np.testing.assert_allclose(above.position, distance * np.array([0, 0.5, np.sqrt(0.75)]), atol=1e-9)
    np.testing.assert_allclose(above.project(np.zeros((1, 3))), [[50, 50]], atol=1e-9)


def test_pixel_centres_are_at_halves_row_by_row():
    centres = framing(
        np.zeros(3), np.array([0, 0, 1.0]), np.array([0, 1.0, 0]), height=2.0, fov_rad=0.3, pixels=2
    ).pixel_centres()
    np.testing.assert_array_equal(centres, [[0.5, 0.5], [1.5, 0.5], [0.5, 1.5], [1.5, 1.5]])
