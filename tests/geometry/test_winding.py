"""Winding numbers and signed distances: known answers on closed and open spheres."""

import gc

import igl
import numpy as np
import pytest

from nphm_core.geometry.winding import SignedDistance, WindingNumber


def shells(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Give points between 0.1 and 2 from the origin, at least 0.02 away from 1, and their distance to it."""
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    radius = np.concatenate([rng.uniform(0.1, 0.98, n // 2), rng.uniform(1.02, 2.0, n - n // 2)])
    return direction * radius[:, None], radius


@pytest.mark.parametrize("shift", [0.0, 1e5])
def test_a_closed_sphere_has_one_inside_and_zero_outside(sphere, shift):
    vertices, faces = sphere(1.0, 80)
    points, radius = shells(np.random.default_rng(0), 4000)
    winding = WindingNumber(vertices + shift, faces)
    gc.collect()
    np.testing.assert_allclose(winding.at(points + shift), radius < 1, atol=0.02)


def test_agrees_with_the_exact_winding_number_on_an_open_surface(sphere):
    vertices, faces = sphere(1.0, 40)
    faces = faces[vertices[faces].mean(axis=1)[:, 2] > -0.5]
    points, _ = shells(np.random.default_rng(1), 500)
    exact = igl.winding_number(vertices, faces, points)
    np.testing.assert_allclose(WindingNumber(vertices, faces).at(points), exact, atol=0.02)


def test_signed_distance_to_a_sphere_is_negative_inside_and_exact(sphere):
    vertices, faces = sphere(1.0, 200)
    points, radius = shells(np.random.default_rng(2), 4000)
    measured = SignedDistance(vertices, faces).at(points)
    # Facets of 0.03 on a sphere of radius 1 sink at most 2e-4.
    np.testing.assert_allclose(measured.signed_distance, radius - 1, atol=3e-4)
    assert measured.trusted().all()


def test_an_open_surface_keeps_its_distances_and_marks_the_sign_at_its_hole(sphere):
    vertices, faces = sphere(1.0, 60)
    faces = faces[vertices[faces].mean(axis=1)[:, 2] > -0.8]
    points = np.array([[0.0, 0.0, 0.9], [0.0, 0.0, 1.1], [0.0, 0.0, -0.78]])
    measured = SignedDistance(vertices, faces).at(points)
    np.testing.assert_allclose(np.abs(measured.signed_distance), measured.closest.distance)
    np.testing.assert_allclose(measured.signed_distance[:2], [-0.1, 0.1], atol=2e-3)
    np.testing.assert_array_equal(measured.trusted(0.2), [True, True, False])


def test_flipped_faces_turn_the_sign_around(cube):
    vertices, faces = cube(2.0)
    winding = WindingNumber(vertices, faces[:, ::-1]).at(np.zeros((1, 3)))
    np.testing.assert_allclose(winding, -1.0, atol=0.01)


def test_wrong_calls_are_refused(cube):
    vertices, faces = cube(2.0)
    with pytest.raises(ValueError, match="no faces"):
        WindingNumber(vertices, faces[:0])
    with pytest.raises(ValueError, match="there are 8"):
        WindingNumber(vertices, faces + 1)
    with pytest.raises(ValueError, match="not finite"):
        WindingNumber(vertices, faces).at(np.full((1, 3), np.nan))
    assert WindingNumber(vertices, faces).at(np.zeros((0, 3))).shape == (0,)
