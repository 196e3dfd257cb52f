"""Components: known pieces, agreement with scipy, clusters of points."""

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components as scipy_components

from nphm_core.geometry.components import component_areas, connected_components, point_clusters


def test_two_cubes_and_a_lonely_vertex_are_three_components(cube):
    vertices, faces = cube(2.0)
    both = np.concatenate([faces + 9, faces])
    label = connected_components(both, 17)
    np.testing.assert_array_equal(label, [0] * 8 + [1] + [2] * 8)
    places = np.concatenate([vertices, [[9.0, 9, 9]], 2 * vertices + 20])
    np.testing.assert_allclose(component_areas(places, both, label), [24, 0, 96], atol=1e-12)


def test_agrees_with_scipy_on_random_graphs():
    rng = np.random.default_rng(0)
    for n_faces in (1, 30, 80, 200):
        faces = rng.integers(0, 200, (n_faces, 3))
        label = connected_components(faces, 200)
        edges = np.concatenate([faces[:, :2], faces[:, 1:]])
        graph = coo_matrix((np.ones(len(edges)), edges.T), (200, 200))
        n, slow = scipy_components(graph, directed=False)
        assert label.max() + 1 == n
        # Equal up to numbering: each pair of labels occurs together only.
        assert len(np.unique(label * n + slow)) == n
        assert (np.diff(np.unique(label, return_index=True)[1]) > 0).all()


def test_no_faces_leave_every_vertex_alone():
    np.testing.assert_array_equal(connected_components(np.zeros((0, 3), np.int64), 3), [0, 1, 2])
    assert connected_components(np.zeros((0, 3), np.int64), 0).shape == (0,)


def test_point_clusters_join_near_points_and_part_far_ones():
    rng = np.random.default_rng(0)
    line = np.stack([np.linspace(0, 50, 101), np.zeros(101), np.zeros(101)], axis=1)
    far = line + np.array([0.0, 10.0, 0.0])
    points = np.concatenate([line, far])
    order = rng.permutation(202)
    label = point_clusters(points[order] - 70, radius=0.6)
    assert label.max() == 1
    assert label[0] == 0
    np.testing.assert_array_equal(label, (order < 101) != (order[0] < 101))


def test_point_clusters_always_join_steps_shorter_than_the_radius():
    rng = np.random.default_rng(1)
    steps = rng.normal(size=(400, 3))
    walk = np.cumsum(0.999 * steps / np.linalg.norm(steps, axis=1)[:, None], axis=0)
    assert point_clusters(walk, 1.0).max() == 0


def test_wrong_calls_are_refused():
    with pytest.raises(ValueError, match="there are 2"):
        connected_components(np.array([[0, 1, 2]]), 2)
    with pytest.raises(ValueError, match="radius"):
        point_clusters(np.zeros((2, 3)), 0.0)
    with pytest.raises(ValueError, match="not finite"):
        point_clusters(np.full((2, 3), np.nan), 1.0)
    assert point_clusters(np.zeros((0, 3)), 1.0).shape == (0,)
