"""The template at the level of registered meshes."""

import numpy as np
import pytest

from nphm_core.config import SubdivideConfig
from nphm_core.errors import TopologyError
from nphm_core.evaluation.fine_template import check_fine_topology, fine_template
from nphm_core.template.model import HeadModel
from nphm_core.template.template import Template, bare_template


@pytest.fixture(scope="module")
def template(coarse_ball) -> Template:
    vertices, n = coarse_ball.vertices / 1000, coarse_ball.n_vertices
    model = HeadModel(
        v_template=vertices,
        faces=coarse_ball.faces,
        shapedirs_identity=np.zeros((n, 3, 1), np.float32),
        shapedirs_expression=np.zeros((n, 3, 1), np.float32),
        weights=np.ones((n, 1)),
        parents=(-1,),
        joint_names=("root",),
        joints=np.zeros((1, 3)),
        joints_identity=np.zeros((1, 3, 1)),
        name="ball",
    )
    bare = bare_template(model)
    regions = bare.regions | {"face": vertices[:, 2] > 0.02}
    return Template(model, bare.landmarks, regions, bare.pairs, bare.anchors, bare.hash)


def test_regions_stay_where_they_are(template):
    fine = fine_template(template, SubdivideConfig(levels=2, region="head"))
    assert len(fine.faces) == 16 * len(template.faces)
    inside = fine.rest[:, 2] > 20
    # Only within an edge's length of the border may they differ.
    assert (np.abs(fine.rest[fine.regions["face"] != inside][:, 2] - 20) < 8).all()
    assert (fine.regions["face"][: template.n_vertices] != template.regions["face"]).mean() < 0.05
    assert np.abs(np.linalg.norm(fine.rest, axis=1) - 80).max() < 0.5


def test_a_refined_face_leaves_the_rest_coarse(template):
    fine = fine_template(template, SubdivideConfig(levels=1, region="face"))
    assert len(template.faces) < len(fine.faces) < 4 * len(template.faces)
    check_fine_topology(fine, fine.faces.copy())


def test_other_faces_are_refused(template):
    fine = fine_template(template, SubdivideConfig(levels=1, region="head"))
    with pytest.raises(TopologyError, match="registered mesh"):
        check_fine_topology(fine, fine.faces[::-1])
