"""Noise fields: unit variance, smooth over a cell, a function of place and seed."""

import numpy as np
import pytest

from nphm_core.synthetic.noise import smooth_noise


def test_noise_has_unit_spread_whatever_the_octaves():
    points = np.random.default_rng(0).uniform(-500, 500, (50_000, 3))
    for octaves in (1, 3):
        values = smooth_noise(points, 10.0, 7, octaves=octaves)
        assert abs(values.mean()) < 0.1
        assert values.std() == pytest.approx(1.0, abs=0.1)


def test_noise_is_smooth_within_a_cell_and_forgets_beyond():
    points = np.random.default_rng(1).uniform(-500, 500, (20_000, 3))
    values = smooth_noise(points, 10.0, 7)
    near = smooth_noise(points + np.array([0.05, 0, 0]), 10.0, 7)
    far = smooth_noise(points + np.array([35.0, 0, 0]), 10.0, 7)
    assert np.abs(near - values).max() < 0.06
    assert abs(np.corrcoef(far, values)[0, 1]) < 0.05


def test_noise_stretches_with_its_cells():
    points = np.random.default_rng(2).uniform(-500, 500, (20_000, 3))
    cell = (2.0, 50.0, 2.0)
    values = smooth_noise(points, cell, 7)
    along = np.abs(smooth_noise(points + np.array([0, 1.0, 0]), cell, 7) - values).mean()
    across = np.abs(smooth_noise(points + np.array([1.0, 0, 0]), cell, 7) - values).mean()
    assert across > 10 * along


def test_the_seed_decides_the_field():
    points = np.random.default_rng(3).uniform(-50, 50, (2000, 3))
    one, same, other = (smooth_noise(points, 5.0, seed) for seed in (1, 1, 2))
    assert (one == same).all()
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1
