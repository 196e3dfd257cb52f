"""Crossing triangles: known pairs, touching ones left out, agreement with a plain loop."""

import numpy as np
import pytest

from nphm_core.geometry.intersections import self_intersections

FIRST = np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0]])


@pytest.mark.parametrize(
    ("second", "crossing"),
    [
        ([[1, 1, -1], [1, 1, 1], [1, -3, 1]], True),
        ([[1, 1, -1], [1.5, 1, -1], [1, 1.2, 2]], True),
        ([[1, 1, 0.1], [1, 1, 1], [1, -3, 1]], False),
        ([[5, 5, -1], [5, 5, 1], [9, 9, 0]], False),
        # Touching: a corner on the plane, the same place under other indices, overlapping within the plane.
        ([[1, 1, 0], [1, 1, 1], [2, 1, 1]], False),
        ([[0, 0, 0], [-1, 0, 3], [0, -1, 3]], False),
        ([[1, 1, 0], [5, 1, 0], [1, 5, 0]], False),
    ],
)
def test_two_triangles_have_their_known_answer_in_any_pose(second, crossing, random_rotation):
    vertices, faces = np.concatenate([FIRST, np.array(second, float)]), np.array([[0, 1, 2], [3, 4, 5]])
    assert len(self_intersections(vertices, faces)) == crossing
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = vertices @ random_rotation(rng).T + rng.normal(0, 100, 3)
        np.testing.assert_array_equal(self_intersections(moved, faces), [[0, 1]] if crossing else np.zeros((0, 2)))


def test_triangles_that_share_a_vertex_cross_only_beyond_it():
    vertices = np.concatenate([FIRST, [[2.0, 1, -1], [2, 1, 1], [-2, 1, 1], [-2, 1, -1]]])
    assert len(self_intersections(vertices, np.array([[0, 1, 2], [0, 3, 4]]))) == 1
    assert len(self_intersections(vertices, np.array([[0, 1, 2], [0, 5, 6]]))) == 0


def test_closed_surfaces_have_none_and_two_that_overlap_have_some(sphere):
    vertices, faces = sphere(10.0, 30)
    assert len(self_intersections(vertices, faces)) == 0
    both = (
        np.concatenate([vertices, vertices + np.array([3.1, 0.2, 0.1])]),
        np.concatenate([faces, faces + len(vertices)]),
    )
    pairs = self_intersections(*both)
    assert len(pairs) > 50
    assert (pairs[:, 0] < len(faces)).all()
    assert (pairs[:, 1] >= len(faces)).all()


def pierces(start: np.ndarray, end: np.ndarray, corners: np.ndarray) -> bool:
    a, b, c = corners
    matrix = np.stack([b - a, c - a, start - end], axis=1)
    u, v, t = np.linalg.solve(matrix, start - a)
    return bool(min(u, v, 1 - u - v, t, 1 - t) > 0)


def test_agrees_with_a_plain_loop_on_random_triangles():
    rng = np.random.default_rng(1)
    corners = rng.uniform(-5, 5, (70, 1, 3)) + rng.normal(0, 1.5, (70, 3, 3))
    slow = [
        (i, j)
        for i in range(70)
        for j in range(i + 1, 70)
        if any(
            pierces(p[k], p[(k + 1) % 3], q)
            for p, q in ((corners[i], corners[j]), (corners[j], corners[i]))
            for k in range(3)
        )
    ]
    assert len(slow) > 20
    pairs = self_intersections(corners.reshape(-1, 3), np.arange(210).reshape(70, 3))
    np.testing.assert_array_equal(pairs, slow)


def test_no_faces_and_degenerate_faces_give_no_pairs():
    assert self_intersections(FIRST, np.zeros((0, 3), np.int64)).shape == (0, 2)
    vertices = np.concatenate([FIRST, [[1.0, 1, -1], [1, 1, 1], [1, 1, 0]]])
    assert len(self_intersections(vertices, np.array([[0, 1, 2], [3, 4, 5], [3, 3, 3]]))) == 0
