"""Head and face of a ball."""

import numpy as np
import pytest

from nphm_core.evaluation.head_regions import HeadRegions, MeasureError, head_regions
from nphm_core.geometry.mesh import Mesh
from nphm_core.spaces import Similarity
from nphm_core.supervision.samples import Plane
from nphm_core.template.model import HeadModel
from nphm_core.template.template import Template, bare_template

THROAT = Plane(np.array([0.0, -30, 0]), np.array([0.0, 1, 0]))


@pytest.fixture
def template(coarse_ball) -> Template:
    n = coarse_ball.n_vertices
    model = HeadModel(
        v_template=coarse_ball.vertices / 1000,
        faces=coarse_ball.faces,
        shapedirs_identity=np.zeros((n, 3, 1)),
        shapedirs_expression=np.zeros((n, 3, 1)),
        weights=np.ones((n, 1)),
        parents=(-1,),
        joint_names=("root",),
        joints=np.zeros((1, 3)),
        joints_identity=np.zeros((1, 3, 1)),
    )
    template = bare_template(model)
    template.regions["face"][:] = coarse_ball.vertices[:, 2] > 50
    return template


def regions(ball: Mesh, template: Template, margin_mm: float = 0.0) -> HeadRegions:
    # A registered mesh may be finer: the template's vertices come first in it.
    return head_regions(ball, template, THROAT, Similarity.identity(), throat_margin_mm=margin_mm)


def test_the_face_is_what_the_template_calls_so(ball, template):
    found = regions(ball, template)
    assert len(found.face_points) == template.regions["face"].sum()
    assert found.face_points[:, 2].min() > 50
    assert np.allclose(found.face_normals, found.face_points / 80, atol=0.01)


def test_face_points_are_near_the_registered_face_and_in_its_plane(ball, template):
    points = np.array([[0.0, 0, 80], [0, 0, 84.9], [0, 0, 85.2], [0, 0, -80], [0, 80, 0], [200, 0, 80]])
    found = regions(ball, template)
    assert found.in_face(points).tolist() == [True, True, False, False, False, False]
    assert found.in_head(points).all()
    assert found.in_face(np.zeros((0, 3))).shape == (0,)


def test_the_margin_raises_the_throat(ball, template):
    points = np.array([[0.0, -26, 0], [0, -24, 0]])
    assert regions(ball, template).in_head(points).tolist() == [True, True]
    assert regions(ball, template, margin_mm=5.0).in_head(points).tolist() == [False, True]


def test_a_template_without_a_face_is_refused(ball, template):
    template.regions["face"][:] = False
    with pytest.raises(MeasureError, match="no face region"):
        regions(ball, template)
