"""What is exported, seen by readers that this project did not write."""

from dataclasses import replace

import numpy as np
import pytest

from nphm_core.errors import ExportError
from nphm_core.exports.flame_files import flame_model_arrays, flame_parameters
from nphm_core.exports.ibug_landmarks import FLAME_IBUG68, NOW7, ibug_embedding
from nphm_core.exports.morph_targets import base_scan, blendshape_targets, captured_targets
from nphm_core.exports.nphm_layout import nphm_numbers
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import write_npz
from nphm_core.io.glb import write_glb_metres
from nphm_core.io.obj_writer import write_obj
from nphm_core.io.ply import write_ply
from nphm_core.template.model import HeadModel
from nphm_core.template.read import read_head_model
from nphm_core.template.template import bare_template
from tests.exports import foreign_readers as foreign
from tests.exports import small_run


@pytest.fixture(scope="module")
def template():
    return small_run.ball_template()


@pytest.fixture(scope="module")
def scans(template):
    return small_run.registered_scans(template)


@pytest.mark.parametrize(
    ("suffix", "reader"), [("ply", foreign.meshio_mesh), ("ply", foreign.open3d_mesh), ("obj", foreign.meshio_mesh)]
)
def test_meshes_keep_their_vertex_order_and_unit_for_foreign_readers(scans, tmp_path, suffix, reader):
    mesh = scans[0].registered
    path = tmp_path / f"head.{suffix}"
    (write_ply if suffix == "ply" else write_obj)(path, mesh)
    vertices, faces = reader(path)
    np.testing.assert_array_equal(faces, mesh.faces)
    np.testing.assert_allclose(vertices, mesh.vertices, atol=2e-5)  # mm, of float32


def test_open3d_reads_an_obj_triangle_by_triangle_though_it_renumbers_vertices(scans, tmp_path):
    mesh = scans[0].registered
    write_obj(tmp_path / "head.obj", mesh)
    vertices, faces = foreign.open3d_mesh(tmp_path / "head.obj")
    np.testing.assert_allclose(vertices[faces], mesh.vertices[mesh.faces], atol=2e-5)


def test_an_obj_says_its_unit_and_nothing_that_readers_take_for_coordinates(tmp_path):
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    mesh = Mesh(corners, np.array([[0, 1, 2]]), colours=np.zeros((3, 3), np.uint8))
    write_obj(tmp_path / "c.obj", mesh, remark="one\ntwo")
    assert (tmp_path / "c.obj").read_text() == "# one\n# two\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


def glb_of(scans, template, path):
    base = base_scan(scans[:3])
    mesh = Mesh(base.to_metres.apply(base.mesh(template, "template").vertices), template.faces)
    targets = captured_targets(base, scans[:3], template, "template") | blendshape_targets(base, template)
    write_glb_metres(path, mesh, targets, name="s001")
    return mesh, targets


@pytest.mark.parametrize(
    "reader",
    ["gltflib", pytest.param("three", marks=pytest.mark.slow), pytest.param("blender", marks=pytest.mark.slow)],
)
def test_a_glb_gives_foreign_readers_every_vertex_and_named_target(scans, template, tmp_path, reader, repository):
    mesh, targets = glb_of(scans, template, tmp_path / "s001.glb")
    if reader == "gltflib":
        vertices, faces, found = foreign.gltflib(tmp_path / "s001.glb")
    elif reader == "blender":
        vertices, faces, found = foreign.blender(tmp_path / "s001.glb", tmp_path)
    else:
        vertices, faces, found = foreign.three_js(tmp_path / "s001.glb", repository / ".cache" / "three")
    np.testing.assert_allclose(vertices, mesh.vertices, atol=1e-8)  # metres
    np.testing.assert_array_equal(faces, mesh.faces)
    assert list(found) == list(targets) == ["mouth-open", "smile", "browUp", "jawForward", "pucker"]
    for name, offset in targets.items():
        np.testing.assert_allclose(found[name], offset, atol=1e-8)


def test_trimesh_reads_a_glb_with_the_size_of_a_head_in_metres(scans, template, tmp_path):
    import trimesh

    mesh, _ = glb_of(scans, template, tmp_path / "s001.glb")
    scene = trimesh.load_scene(tmp_path / "s001.glb", process=False)
    (part,) = scene.geometry.values()
    np.testing.assert_allclose(part.vertices, mesh.vertices, atol=1e-7)
    assert 0.1 < np.ptp(part.vertices, axis=0).max() < 0.5


def test_a_captured_target_leads_to_the_other_scan(scans, template):
    base, other = scans[0], scans[1]
    offset = captured_targets(base, scans[:3], template, "registered")["mouth-open"]
    reached = base.to_metres.apply(base.registered.vertices) + offset
    np.testing.assert_allclose(reached, other.to_metres.apply(other.registered.vertices), atol=1e-12)


def test_a_blendshape_is_the_models_own_change_in_the_scans_pose(scans, template):
    scan = scans[0]
    expression = scan.fit.expression + [0, 1, 0]
    T = scan.to_metres @ scan.T_metric_model
    posed = T.apply(template.model.pose(scan.fit.identity, expression, scan.fit.rotations))
    offset = blendshape_targets(scan, template)["jawForward"]
    np.testing.assert_allclose(T.apply(template.model.posed(scan.fit)) + offset, posed, atol=1e-9)


def test_flames_formula_gives_the_fitted_mesh_from_the_exported_files(scans, template, tmp_path):
    write_npz(tmp_path / "model.npz", flame_model_arrays(template.model))
    for scan in scans[:2]:
        write_npz(tmp_path / "params.npz", flame_parameters(scan))
        with np.load(tmp_path / "model.npz") as model, np.load(tmp_path / "params.npz") as params:
            head = foreign.flame_head(dict(model), dict(params))
        fitted = scan.to_metres.apply(scan.fit_vertices_mm)
        np.testing.assert_allclose(head, fitted, atol=2e-7)  # metres


def test_the_exported_model_is_read_back_as_the_same_head_model(template, tmp_path):
    write_npz(tmp_path / "ball.npz", flame_model_arrays(template.model))
    model = read_head_model(str(tmp_path / "ball.npz"))
    assert model.expression_names == template.model.expression_names
    shape, expression = np.full(4, 0.7), np.full(3, -0.4)
    turns = {"jaw": np.array([0.2, 0, 0.1])}
    expected = template.model.pose(shape, expression, turns)
    np.testing.assert_allclose(model.pose(shape, expression, turns), expected, atol=2e-7)


def test_nows_seven_landmarks_are_those_of_the_68(scans, template):
    embedding = ibug_embedding(template)
    vertices = scans[0].registered.vertices
    points = embedding.points(vertices, template.faces)
    np.testing.assert_array_equal(embedding.now7(vertices, template.faces), points[list(NOW7)])


def test_flames_topology_has_its_published_landmark_vertices(template):
    rng = np.random.default_rng(0)
    # Every vertex is the corner of some triangle.
    faces = np.concatenate([rng.permutation(5023)[:5022].reshape(-1, 3) for _ in range(6)])[:9976]
    nothing = np.zeros((5023, 3, 1), np.float32)
    model = HeadModel(
        v_template=rng.random((5023, 3)), faces=faces, shapedirs_identity=nothing, shapedirs_expression=nothing,
        weights=np.ones((5023, 1)), parents=(-1,), joint_names=("root",), joints=np.zeros((1, 3)),
        joints_identity=np.zeros((1, 3, 1)),
    )  # fmt: skip
    embedding = ibug_embedding(bare_template(model))
    np.testing.assert_allclose(embedding.points(model.v_template, faces), model.v_template[list(FLAME_IBUG68)])


def test_a_template_without_any_landmarks_is_refused(template):
    with pytest.raises(ExportError, match="lacks 51 of MediaPipe's points"):
        ibug_embedding(bare_template(replace(template.model, landmarks68=None)))


def test_numbers_of_the_nphm_layout_put_neutrals_first_and_keep_numbers():
    rows = [
        ("b", "smile", ""),
        ("b", "rest", "closed"),
        ("a", "aah", "open"),
        ("a", "rest", "closed"),
        ("b", "aah", ""),
    ]
    numbers = nphm_numbers(rows)
    assert numbers.subject == {"a": 1, "b": 2}
    assert numbers.expression == {"rest": 0, "aah": 1, "smile": 2}
    kept = nphm_numbers([("017", "10", "open"), ("365", "2", "")])
    assert kept.subject == {"017": 17, "365": 365}
    assert kept.expression == {"10": 10, "2": 2}


def test_a_glb_without_triangles_or_with_a_wrong_target_is_a_wrong_call(tmp_path):
    with pytest.raises(ValueError, match="no triangles"):
        write_glb_metres(tmp_path / "x.glb", Mesh(np.zeros((3, 3)), np.zeros((0, 3), int)))
    with pytest.raises(ValueError, match="shape"):
        write_glb_metres(tmp_path / "x.glb", Mesh(np.eye(3), np.array([[0, 1, 2]])), {"a": np.zeros((2, 3))})
