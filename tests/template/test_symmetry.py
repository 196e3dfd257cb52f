"""Mirrored pairs of vertices."""

import numpy as np
import pytest

from nphm_core.errors import TemplateError
from nphm_core.template.symmetry import mirrored_pairs


def _symmetric_points(rng, n=200):
    half = rng.uniform(-0.1, 0.1, (n, 3))
    half[:, 0] = np.abs(half[:, 0]) + 0.002
    middle = rng.uniform(-0.1, 0.1, (20, 3)) * [0, 1, 1]
    points = np.concatenate([half, half * [-1, 1, 1], middle])
    partner = np.concatenate([np.arange(n, 2 * n), np.arange(n), np.arange(2 * n, 2 * n + 20)])
    order = rng.permutation(len(points))
    where = np.argsort(order)
    return points[order], where[partner[order]]


def test_symmetric_points_find_their_partners():
    points, partner = _symmetric_points(np.random.default_rng(0))
    pairs = mirrored_pairs(points)
    assert pairs.symmetric
    assert np.array_equal(pairs.partner, partner)
    assert pairs.distance.max() == 0


def test_slightly_crooked_heads_still_pair_off():
    rng = np.random.default_rng(1)
    points, partner = _symmetric_points(rng)
    pairs = mirrored_pairs(points + 1e-4 * rng.standard_normal(points.shape))
    assert pairs.symmetric
    assert (pairs.partner == partner).mean() > 0.99
    assert np.array_equal(pairs.partner[pairs.partner], np.arange(len(points)))


def test_points_without_partners_keep_their_nearest():
    rng = np.random.default_rng(2)
    points = rng.uniform(-0.05, 0.05, (3000, 3))
    pairs = mirrored_pairs(points)
    assert not pairs.symmetric
    assert pairs.distance.max() < 0.015


def test_head_beside_the_middle_is_refused():
    points, _ = _symmetric_points(np.random.default_rng(3))
    with pytest.raises(TemplateError, match="symmetric at x = 0"):
        mirrored_pairs(points + [0.05, 0, 0])
