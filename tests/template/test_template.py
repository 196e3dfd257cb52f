"""Template folders and topology."""

from dataclasses import replace

import numpy as np
import pytest

from nphm_core.errors import TemplateError, TopologyError
from nphm_core.geometry.mesh import Mesh
from nphm_core.template.model import FLAME_JOINTS, HeadModel
from nphm_core.template.template import (
    LandmarkEmbedding,
    bare_template,
    check_topology,
    read_template,
    topology_hash,
    with_landmarks,
    write_template,
)


def _model(rng) -> HeadModel:
    n = 12
    return HeadModel(
        v_template=rng.standard_normal((n, 3)),
        faces=rng.integers(0, n, (9, 3)),
        shapedirs_identity=rng.standard_normal((n, 3, 4)).astype(np.float32),
        shapedirs_expression=rng.standard_normal((n, 3, 2)).astype(np.float32),
        weights=rng.dirichlet(np.ones(5), n),
        parents=(-1, 0, 1, 1, 1),
        joint_names=FLAME_JOINTS,
        joints=rng.standard_normal((5, 3)),
        joints_identity=rng.standard_normal((5, 3, 4)),
        expression_names=("smile", "frown"),
        name="test-head",
        licence="CC0-1.0",
        landmarks68=(np.zeros(68, np.int64), np.full((68, 3), 1 / 3)),
    )


def _template(seed=0):
    rng = np.random.default_rng(seed)
    landmarks = LandmarkEmbedding(
        np.array([1, 61]), np.array([0, 3]), rng.dirichlet(np.ones(3), 2), np.array([0.5, 1.0]), np.ones(2)
    )
    template = with_landmarks(bare_template(_model(rng)), landmarks)
    regions = {name: rng.random(12) < 0.5 for name in template.regions}
    return replace(template, regions=regions, pairs=rng.permutation(12), anchors=np.arange(39) % 12, facts={"a": 1.5})


def test_template_survives_its_folder(tmp_path):
    template = _template()
    write_template(tmp_path / "t", template)
    read = read_template(tmp_path / "t")
    assert read.hash == template.hash
    assert read.facts == {"a": 1.5}
    for key in ("v_template", "faces", "shapedirs_identity", "shapedirs_expression", "weights", "joints_identity"):
        assert np.array_equal(getattr(read.model, key), getattr(template.model, key)), key
    assert read.model.posedirs is None
    assert read.model.expression_names == ("smile", "frown")
    assert all(np.array_equal(read.regions[k], template.regions[k]) for k in template.regions)
    assert np.array_equal(read.anchors, template.anchors)
    assert np.array_equal(read.landmarks.barycentric, template.landmarks.barycentric)
    pose = {"rotations": {"jaw": np.array([0.2, 0.1, 0.0])}, "expression": {"smile": 0.5}}
    assert np.array_equal(read.model.pose(**pose), template.model.pose(**pose))


def test_the_same_template_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_template(tmp_path / name, _template())
    for file in ("template.json", "template.npz"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_hash_depends_on_vertex_count_and_order_of_faces():
    faces = np.array([[0, 1, 2], [2, 1, 3]])
    assert topology_hash(4, faces) == topology_hash(4, faces.astype(np.int32))
    assert topology_hash(4, faces) != topology_hash(5, faces)
    assert topology_hash(4, faces) != topology_hash(4, faces[::-1])


def test_mesh_of_another_topology_is_refused():
    template = _template()
    good = Mesh(template.model.v_template, template.faces)
    check_topology(good, template)
    with pytest.raises(TopologyError, match="expected a mesh made with this template"):
        check_topology(Mesh(good.vertices, good.faces[::-1]), template)


def test_folders_that_hold_no_template_are_explained(tmp_path):
    with pytest.raises(TemplateError, match=r"holds no template\.json"):
        read_template(tmp_path)
    write_template(tmp_path / "one", _template(0))
    write_template(tmp_path / "two", _template(1))
    (tmp_path / "two" / "template.npz").replace(tmp_path / "one" / "template.npz")
    with pytest.raises(TemplateError, match="do not belong to its facts"):
        read_template(tmp_path / "one")


def test_landmarks_follow_the_vertices():
    template = _template()
    shift = np.array([1.0, 2.0, 3.0])
    before = template.landmarks.points(template.model.v_template, template.faces)
    after = template.landmarks.by_index(template.model.v_template + shift, template.faces)
    assert np.allclose(after[61], before[1] + shift)
