"""Surface samples: counts follow area and weights, positions are uniform, the seed decides."""

import numpy as np
import pytest

from nphm_core.geometry.mesh import face_normals
from nphm_core.geometry.sampling import interpolate, sample_surface


def test_each_triangle_gets_its_expected_number_rounded_up_or_down(sphere):
    vertices, faces = sphere(10.0, 30)
    area = face_normals(vertices, faces)[1]
    weights = np.random.default_rng(1).uniform(0, 3, len(faces))
    weights[::5] = 0
    samples = sample_surface(vertices, faces, 5000, rng=np.random.default_rng(0), face_weights=weights)
    expected = 5000 * area * weights / (area * weights).sum()
    count = np.bincount(samples.face, minlength=len(faces))
    assert np.abs(count - expected).max() < 1
    assert count[::5].sum() == 0
    assert (np.diff(samples.face) >= 0).all()


def test_expected_counts_are_right_over_many_draws():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 3]])
    faces = np.array([[0, 1, 2], [0, 1, 3]])
    rng = np.random.default_rng(0)
    drawn = [sample_surface(vertices, faces, 1, rng=rng).face[0] for _ in range(4000)]
    # Areas 0.5 and 1.5; the standard error is 0.007.
    assert abs(np.mean(drawn) - 0.75) < 0.03


def test_points_are_uniform_within_a_triangle():
    vertices, faces = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]])
    samples = sample_surface(vertices, faces, 200_000, rng=np.random.default_rng(0))
    points = interpolate(vertices, faces, samples.face, samples.barycentric)
    np.testing.assert_allclose(points.mean(axis=0), [1 / 3, 1 / 3, 0], atol=3e-3)
    # The middle triangle of four equal ones.
    middle = (points[:, 0] < 0.5) & (points[:, 1] < 0.5) & (points[:, 0] + points[:, 1] > 0.5)
    assert abs(middle.mean() - 0.25) < 0.005
    assert samples.barycentric.min() >= 0
    np.testing.assert_allclose(samples.barycentric.sum(axis=1), 1, atol=1e-12)


def test_the_seed_decides_and_nothing_else(sphere):
    vertices, faces = sphere(1.0, 12)
    first, again = (sample_surface(vertices, faces, 100, rng=np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first.face, again.face)
    np.testing.assert_array_equal(first.barycentric, again.barycentric)
    other = sample_surface(vertices, faces, 100, rng=np.random.default_rng(8))
    assert (first.barycentric != other.barycentric).any()


def test_triangles_without_area_are_never_drawn():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5]])
    faces = np.array([[3, 3, 3], [0, 1, 2], [3, 3, 3], [0, 1, 1]])
    samples = sample_surface(vertices, faces, 1000, rng=np.random.default_rng(0))
    assert (samples.face == 1).all()


def test_interpolation_is_linear_for_scalars_and_vectors(plane):
    vertices, faces = plane(4)
    samples = sample_surface(vertices, faces, 300, rng=np.random.default_rng(0))
    points = interpolate(vertices, faces, samples.face, samples.barycentric)
    scalar = interpolate(2 * vertices[:, 0] - vertices[:, 1] + 1, faces, samples.face, samples.barycentric)
    assert scalar.shape == (300,)
    np.testing.assert_allclose(scalar, 2 * points[:, 0] - points[:, 1] + 1, atol=1e-12)
    nothing = interpolate(vertices, faces, np.array([-1]), np.zeros((1, 3)))
    assert np.isnan(nothing).all()


def test_wrong_calls_are_refused(cube):
    vertices, faces = cube(1.0)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="nothing to sample"):
        sample_surface(vertices, faces[:0], 10, rng=rng)
    with pytest.raises(ValueError, match="nothing to sample"):
        sample_surface(vertices, faces, 10, rng=rng, face_weights=np.zeros(12))
    with pytest.raises(ValueError, match="negative or not finite"):
        sample_surface(vertices, faces, 10, rng=rng, face_weights=np.full(12, -1.0))
    with pytest.raises((ValueError, TypeError), match=r"one a triangle|Type-check"):
        sample_surface(vertices, faces, 10, rng=rng, face_weights=np.ones(3))
    with pytest.raises(ValueError, match="number of samples"):
        sample_surface(vertices, faces, -1, rng=rng)
    assert len(sample_surface(vertices, faces, 0, rng=rng).face) == 0
