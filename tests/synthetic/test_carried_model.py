"""A model carried into another topology: known from a finer copy of the template itself, moved away."""

from dataclasses import replace

import numpy as np
import pytest

from nphm_core.errors import TemplateError
from nphm_core.geometry.subdivision import subdivide_linearly, subdivided_faces, subdivision_hierarchy
from nphm_core.spaces import Similarity
from nphm_core.synthetic.carried_model import carry_model, moved_model, read_carried_model, write_carried_model
from nphm_core.template.rotations import rotation_matrices
from nphm_core.template.template import LandmarkEmbedding, bare_template

_TURN = Similarity(1.0, rotation_matrices(np.array([[0.1, -0.05, 0.08]]))[0], np.array([0.01, -0.02, 0.015]))


@pytest.fixture(scope="module")
def finer_copy(toy_template):
    """The toy template in four times the triangles, turned and moved: the same heads in another topology."""
    model = toy_template.model
    hierarchy = subdivision_hierarchy(model.faces, model.n_vertices, 1, scheme="midpoint")
    fine = {
        key: subdivide_linearly(hierarchy, getattr(model, key))
        for key in ("v_template", "shapedirs_identity", "shapedirs_expression", "weights")
    }
    faces = subdivided_faces(hierarchy, model.faces)[0]
    copy = moved_model(replace(model, faces=faces, **fine), _TURN)
    bare = bare_template(copy)
    regions = {name: subdivide_linearly(hierarchy, mask * 1.0) > 0.9 for name, mask in toy_template.regions.items()}
    marks = toy_template.landmarks
    # The middle child of a triangle has its parent's middle.
    landmarks = LandmarkEmbedding(marks.index, 4 * marks.face + 3, marks.barycentric, marks.spread_mm, marks.weight)
    np.testing.assert_allclose(
        landmarks.points(copy.v_template, faces), _TURN.apply(marks.points(model.v_template, model.faces)), atol=1e-9
    )
    return replace(bare, regions=bare.regions | regions, landmarks=landmarks)


@pytest.fixture(scope="module")
def carried(toy_template, finer_copy):
    """The copy, carried back."""
    return carry_model(toy_template, finer_copy, rng=np.random.default_rng(0))


def test_a_copy_of_the_template_is_carried_back(toy_template, carried):
    skin = ~(toy_template.regions["eyeballs"] | toy_template.regions["neck"])
    for identity, expression, jaw in (((0, 0), {}, 0.0), ((1.5, -1), {"mouthSmile_L": 0.8}, 0.2)):
        heads = [
            model.pose(np.array(identity, float), expression, {"jaw": np.array([jaw, 0, 0])})
            for model in (toy_template.model, carried)
        ]
        error_mm = 1000 * np.linalg.norm(heads[0] - heads[1], axis=1)[skin]
        assert np.median(error_mm) < 0.5
        assert np.quantile(error_mm, 0.95) < 2.0


def test_a_moved_model_gives_the_same_heads_elsewhere(toy_template):
    rng = np.random.default_rng(1)
    model = toy_template.model
    posedirs = 0.01 * rng.standard_normal((model.n_vertices, 3, 9)).astype(np.float32)
    model = replace(model, posedirs=posedirs, pose_joints=(2,))
    rotvec = np.array([0.3, 0.1, -0.05])
    here = model.pose(np.array([1.0, -1.0]), {"mouthSmile_R": 0.5}, {"jaw": rotvec})
    there = moved_model(model, _TURN).pose(
        np.array([1.0, -1.0]), {"mouthSmile_R": 0.5}, {"jaw": _TURN.rotation @ rotvec}
    )
    np.testing.assert_allclose(there, _TURN.apply(here), atol=1e-6)


def test_a_carried_model_survives_its_file(tmp_path, toy_template, carried):
    path = tmp_path / "carried.npz"
    write_carried_model(path, carried)
    again = read_carried_model(path, toy_template)
    np.testing.assert_allclose(again.v_template, carried.v_template, atol=1e-7)
    np.testing.assert_allclose(again.shapedirs_identity, carried.shapedirs_identity, atol=1e-5)
    assert again.expression_names == carried.expression_names
    assert again.parents == carried.parents


def test_a_carried_model_of_another_template_is_refused(tmp_path, toy_template, finer_copy, carried):
    path = tmp_path / "carried.npz"
    write_carried_model(path, carried)
    with pytest.raises(TemplateError, match="Carry the model again"):
        read_carried_model(path, finer_copy)
