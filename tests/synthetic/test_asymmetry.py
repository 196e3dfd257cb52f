"""Local warps: as wide and as strong as asked for, never folding, constant around eyes, of either side alone."""

import numpy as np
import pytest

from nphm_core.synthetic.asymmetry import LocalWarps, WarpSettings, draw_warps, warp_head


@pytest.fixture(scope="module")
def skin(toy_map):
    """Material positions of the toy head, mm."""
    return toy_map.model.v_template[~toy_map.eyeball] * 1000.0


def _draw(skin, seed: int) -> LocalWarps:
    return draw_warps(skin, skin[:, 2] > 0, WarpSettings(), rng=np.random.default_rng(seed))


def test_a_field_has_half_its_amplitude_at_its_radius():
    one = WarpSettings(count=(1, 1), radius_mm=(20.0, 20.0), amplitude_mm=(4.0, 4.0))
    warps = draw_warps(np.zeros((1, 3)), np.ones(1, bool), one, rng=np.random.default_rng(0))
    length = np.linalg.norm(warps.at(np.array([[0.0, 0, 0], [20, 0, 0], [0, 200, 0]])), axis=1)
    np.testing.assert_allclose(length, [4.0, 2.0, 0.0], atol=0.01)


def test_warps_never_fold_the_surface(skin):
    step = 0.5
    for seed in range(12):
        warps = _draw(skin, seed)
        moved = [warps.at(skin + step * axis) - warps.at(skin) for axis in np.eye(3)]
        jacobian = np.eye(3) + np.stack(moved, axis=2) / step
        assert np.linalg.det(jacobian).min() > 0.05


def test_warps_are_millimetres_strong_and_differ_between_the_sides(skin):
    lengths, differences = [], []
    for seed in range(12):
        warps = _draw(skin, seed)
        here, there = warps.at(skin), warps.at(skin * [-1, 1, 1]) * [-1, 1, 1]
        front = skin[:, 2] > 30
        lengths.append(np.linalg.norm(here[front], axis=1).max())
        differences.append(np.linalg.norm(here - there, axis=1)[front].mean())
    assert 2.5 < np.mean(lengths) < 12.0
    assert min(differences) > 0.5


def test_eyes_move_rigidly(toy_map):
    points = toy_map.model.v_template * 1000.0
    moved = warp_head(_draw(points, 5), points, toy_map.eye_centres)
    for centre in toy_map.eye_centres:
        near = np.linalg.norm(points - centre, axis=1) < 15
        assert np.ptp(moved[near], axis=0).max() < 1e-9


def test_the_same_seed_gives_the_same_warps(skin):
    np.testing.assert_array_equal(_draw(skin, 3).displacement, _draw(skin, 3).displacement)
    assert not np.array_equal(_draw(skin, 3).centre[0], _draw(skin, 4).centre[0])
