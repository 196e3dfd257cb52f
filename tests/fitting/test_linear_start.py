"""Starts that take their steps together."""

import numpy as np

from nphm_core.fitting.linear_start import StartSearch, _alignments
from nphm_core.spaces import Similarity, align_points
from nphm_core.template.rotations import rotation_matrices


def test_alignments_are_those_of_each_set_of_pairs() -> None:
    rng = np.random.default_rng(0)
    source = rng.standard_normal((5, 20, 3))
    # Noise as large as the points: some of the best orthogonal maps are reflections, which are not wanted.
    target = rng.standard_normal((5, 20, 3)) + source @ rotation_matrices(rng.standard_normal((5, 3)))
    for k, (scale, rotation, translation) in enumerate(zip(*_alignments(source, target), strict=True)):
        own = align_points(source[k], target[k])
        assert np.isclose(scale, own.scale)
        assert np.allclose(rotation, own.rotation)
        assert np.allclose(translation, own.translation)


def test_threads_change_no_pose() -> None:
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((600, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = directions * np.array([0.3, 0.5, 0.4]) + 0.1 * directions[:, :1] ** 2
    pose = Similarity(250.0, rotation_matrices(np.array([[0.3, -0.2, 0.1]]))[0], np.array([1.0, 2.0, 3.0]))
    found = [
        StartSearch(points, directions, n_threads=n).poses(
            pose.apply(points), pose.apply_directions(directions), None, n_best=2, rng=np.random.default_rng(1)
        )
        for n in (1, 2)
    ]
    assert np.array_equal([p.matrix() for p in found[0]], [p.matrix() for p in found[1]])
    assert abs(found[0][0].scale / pose.scale - 1) < 0.05
