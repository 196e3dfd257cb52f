"""Clean heads as closed scans: watertight, hidden parts and caps told from what was measured."""

import numpy as np

from nphm_core.geometry.mesh import unique_edges
from nphm_core.geometry.winding import SignedDistance
from nphm_core.synthetic.closed_head import closed_head, visible_faces


def _cut_ball(ball):
    vertices, faces = ball
    return 100.0 * vertices, faces[(vertices[faces, 1] > -0.8).all(1)]


def test_the_neck_is_closed_and_its_cap_is_a_fill(ball):
    vertices, faces = _cut_ball(ball)
    scan = closed_head(vertices, faces, np.ones(len(faces), bool))
    assert (unique_edges(scan.faces)[1] == 2).all()
    assert scan.n_scan_faces == len(faces)
    inside = SignedDistance(scan.vertices, scan.faces).at(np.array([[0.0, -78.0, 0.0], [0.0, -90.0, 0.0]]))
    # Two mm above the cap, and ten below.
    np.testing.assert_allclose(inside.signed_distance, [-2.0, 10.0], atol=1.0)


def test_what_lies_inside_is_hidden_and_comes_last(ball):
    vertices, faces = ball
    both = np.concatenate([vertices, 0.5 * vertices])
    all_faces = np.concatenate([faces + len(vertices), faces])
    seen = visible_faces(both, all_faces)
    np.testing.assert_array_equal(seen, np.arange(len(all_faces)) >= len(faces))
    scan = closed_head(both, all_faces, seen)
    np.testing.assert_array_equal(scan.faces[: scan.n_scan_faces], faces)
