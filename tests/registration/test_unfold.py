"""Folds on a registered mesh are taken out, and nothing else moves."""

import numpy as np
import pytest

from nphm_core.geometry.quality import flipped_triangles
from nphm_core.registration.unfold import unfold

TURN = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def _plane(n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.arange(n, dtype=float), np.arange(n, dtype=float), indexing="ij")
    vertices = np.stack([x.ravel(), y.ravel(), 0.02 * (x.ravel() - n / 2) ** 2], axis=1)
    corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + n, corner + 1], axis=1), np.stack([corner + 1, corner + n, corner + n + 1], axis=1)]
    )
    return vertices, faces


def test_a_fold_is_taken_out_and_the_rest_stays():
    template, faces = _plane()
    registered = 1.1 * template @ TURN.T + [5.0, 6.0, 7.0]
    folded = registered.copy()
    middle = 10 * 20 + 10
    # One vertex is drawn over its neighbour, beyond the next row of triangles.
    folded[middle] += 1.8 * (registered[middle + 1] - registered[middle]) + 0.05 * TURN[:, 2]
    everywhere = np.ones(len(template), bool)
    assert len(flipped_triangles(folded, template, faces, everywhere)) > 0
    out, moved = unfold(folded, template, faces, everywhere)
    assert len(flipped_triangles(out, template, faces, everywhere)) == 0
    assert moved[middle]
    assert moved.sum() < 80
    np.testing.assert_array_equal(out[~moved], folded[~moved])
    np.testing.assert_allclose(out[middle], registered[middle], atol=0.05)


def test_a_crumpled_place_is_taken_out_whole():
    template, faces = _plane()
    rng = np.random.default_rng(0)
    crumpled = template.copy()
    place = np.linalg.norm(template[:, :2] - 9.5, axis=1) < 4
    crumpled[place] += rng.normal(0, 0.8, (place.sum(), 3))
    everywhere = np.ones(len(template), bool)
    assert len(flipped_triangles(crumpled, template, faces, everywhere)) > 10
    out, moved = unfold(crumpled, template, faces, everywhere)
    assert len(flipped_triangles(out, template, faces, everywhere)) == 0
    np.testing.assert_array_equal(out[~moved], crumpled[~moved])


@pytest.mark.parametrize("squeeze", [0.3, 0.1])
@pytest.mark.parametrize("height", [0.6, 1.2])
def test_a_squeezed_place_where_the_shape_itself_folds_is_laid_flat(squeeze, height):
    template, faces = _plane(30)
    template = template + height * np.sin(2 * template[:, :1]) * [0.0, 0.0, 1.0]
    squeezed = template.copy()
    x = template[:, 0] - 14.5
    squeezed[:, 0] = 14.5 + np.where(np.abs(x) < 5, squeeze * x, x - np.sign(x) * 5 * (1 - squeeze))
    inner = np.linalg.norm(template[:, :2] - 14.5, axis=1) < 2.5
    squeezed[inner] += np.random.default_rng(0).normal(0, 0.8, (inner.sum(), 3))
    everywhere = np.ones(len(template), bool)
    assert len(flipped_triangles(squeezed, template, faces, everywhere)) > 30
    out, _ = unfold(squeezed, template, faces, everywhere)
    assert len(flipped_triangles(out, template, faces, everywhere)) == 0


def test_a_mesh_without_folds_is_left_alone():
    template, faces = _plane()
    out, moved = unfold(template @ TURN.T, template, faces, np.ones(len(template), bool))
    np.testing.assert_array_equal(out, template @ TURN.T)
    assert not moved.any()


def test_folds_at_the_rim_of_the_region_are_taken_out():
    template, faces = _plane()
    folded = template.copy()
    folded[210] += [0.0, 1.8, 0.05]
    region = template[:, 0] < 10.5
    region[210] = False
    out, _ = unfold(folded, template, faces, region)
    assert len(flipped_triangles(out, template, faces)) == 0


def test_folds_outside_the_region_stay():
    template, faces = _plane()
    folded = template.copy()
    folded[210] += [0.0, 1.8, 0.05]
    out, _ = unfold(folded, template, faces, np.zeros(len(template), bool))
    np.testing.assert_array_equal(out, folded)
