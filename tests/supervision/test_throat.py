"""The throat lies below the jaw."""

import numpy as np
import pytest

from nphm_core.errors import SamplingError
from nphm_core.supervision.throat import throat_plane


def test_the_throat_lies_below_the_border_of_the_neck(sphere):
    vertices, faces = sphere
    neck, face = vertices[:, 1] + 0.3 * vertices[:, 2] < -50, vertices[:, 2] > 60
    plane = throat_plane(vertices, faces, neck, face)
    true_normal = np.array([0, 1, 0.3]) / np.hypot(1, 0.3)
    assert np.degrees(np.arccos(plane.normal @ true_normal)) < 1.5
    assert plane.origin @ true_normal == pytest.approx(-50 / np.hypot(1, 0.3) - 25, abs=2.5)
    assert plane.keeps(np.array([[0, 50.0, 50.0], [0, -60.0, 0], [0, -90.0, 0]])).tolist() == [True, True, False]


def test_a_template_without_neck_is_refused(sphere):
    vertices, faces = sphere
    with pytest.raises(SamplingError, match="neck"):
        throat_plane(vertices, faces, np.zeros(len(vertices), bool), vertices[:, 2] > 60)


def test_a_low_chin_is_kept(sphere):
    vertices, faces = sphere
    neck, face = vertices[:, 1] < -30, vertices[:, 2] > 0
    plane = throat_plane(vertices, faces, neck, face)
    assert plane.keeps(vertices[face]).all()
