"""Codes of positions, normals and distances: their errors are those that the docstrings state."""

import numpy as np
import pytest

from nphm_core.supervision.quantise import (
    MAX_NORMAL_ERROR_RAD,
    Box,
    decode_normals,
    decode_positions,
    decode_sdf,
    encode_normals,
    encode_positions,
    encode_sdf,
    sdf_step,
)


def test_positions_come_back_within_half_a_step():
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.7, 1.3, (5000, 3)) * [1, 0.5, 2]
    box = Box.around(points)
    error = np.abs(decode_positions(encode_positions(points, box), box) - points)
    assert (error.max(0) <= 0.5 * box.step * (1 + 1e-9)).all()
    # A head of 350 mm: under three micrometres.
    assert (350 / 65535 / 2) < 0.003


def test_a_position_outside_the_box_is_refused():
    box = Box(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="outside"):
        encode_positions(np.array([[0.5, 0.5, 1.1]]), box)


def test_normals_come_back_within_the_stated_angle():
    rng = np.random.default_rng(1)
    normals = np.concatenate([rng.standard_normal((200_000, 3)), np.eye(3), -np.eye(3), [[1.0, 1, 0], [0, -1, -1]]])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    decoded = decode_normals(encode_normals(normals))
    angle = np.arcsin(np.clip(np.linalg.norm(np.cross(decoded, normals), axis=1), 0, 1))
    assert (np.einsum("na,na->n", decoded, normals) > 0).all()
    assert angle.max() <= MAX_NORMAL_ERROR_RAD
    assert angle.mean() < 0.007
    assert np.allclose(np.linalg.norm(decoded, axis=1), 1)


def test_the_axes_are_coded_exactly():
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    assert np.allclose(decode_normals(encode_normals(axes)), axes, atol=1e-12)


def test_distances_come_back_within_half_a_step():
    sdf = np.random.default_rng(2).normal(0, 0.02, 10_000)
    step = sdf_step(sdf)
    assert np.abs(decode_sdf(encode_sdf(sdf, step), step) - sdf).max() <= 0.5 * step * (1 + 1e-9)
    assert step == pytest.approx(np.abs(sdf).max() / 32767)


def test_nothing_to_code_gives_nothing():
    box = Box.around(np.zeros((0, 3)))
    assert encode_positions(np.zeros((0, 3)), box).shape == (0, 3)
    assert encode_sdf(np.zeros(0), sdf_step(np.zeros(0))).shape == (0,)
