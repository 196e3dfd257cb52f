"""Landmark residuals with known answers."""

import numpy as np
import pytest

from nphm_core.evaluation.landmarks import landmark_residuals
from nphm_core.template.template import LandmarkEmbedding


@pytest.fixture
def embedding(coarse_ball) -> LandmarkEmbedding:
    face = np.array([3, 50, 99, 700])
    return LandmarkEmbedding(np.array([4, 33, 263, 61]), face, np.full((4, 3), 1 / 3), np.ones(4), np.ones(4))


def test_found_landmarks_three_mm_off_have_a_residual_of_three_mm(coarse_ball, embedding):
    own = embedding.points(coarse_ball.vertices, coarse_ball.faces)
    found = own[[2, 0, 1]] + [0, 3.0, 0]
    out = landmark_residuals(
        embedding, coarse_ball.vertices, coarse_ball.faces, np.array([263, 4, 33]), found, np.ones(3)
    )
    assert out.summary.median_mm == pytest.approx(3.0)
    assert out.to_json()["n_used"] == 3


def test_rejected_and_unknown_landmarks_do_not_count(coarse_ball, embedding):
    own = embedding.points(coarse_ball.vertices, coarse_ball.faces)
    found = np.concatenate([own + np.array([1.0, 0, 0]), np.zeros((1, 3))])
    found[1] += 50
    out = landmark_residuals(
        embedding, coarse_ball.vertices, coarse_ball.faces, np.array([4, 33, 263, 61, 477]), found,
        np.array([1, 0, 1, 1, 1.0]),
    )  # fmt: skip
    assert out.summary.n == 3
    assert out.summary.max_mm == pytest.approx(1.0)
    assert np.isnan(out.registered[4]).all()


def test_no_landmarks_give_no_numbers(coarse_ball, embedding):
    out = landmark_residuals(
        embedding, coarse_ball.vertices, coarse_ball.faces, np.zeros(0, int), np.zeros((0, 3)), np.zeros(0)
    )
    assert out.to_json()["median_mm"] is None
