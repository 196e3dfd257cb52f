"""Scans of a toy head: the truth is where the scan is, it turns with the scan, the seed decides all."""

from dataclasses import replace

import numpy as np
import pytest

from nphm_core.geometry.closest import ClosestPoints
from nphm_core.io.meshes import read_scan
from nphm_core.synthetic.delivery import write_obj
from nphm_core.synthetic.head_scan import deliver, make_scan
from nphm_core.synthetic.sensor import SensorSettings
from nphm_core.synthetic.subject import EXPRESSIONS, HeadSurface, draw_subject

QUICK = SensorSettings(pixels=200)


@pytest.fixture(scope="module")
def surface(toy_map):
    return HeadSurface(toy_map)


def scan_of(surface, expression="neutral", seed=1, textured=False):
    subject = draw_subject(surface.head_map.model.n_identity, rng=np.random.default_rng(3))
    rng = np.random.default_rng(seed)
    return make_scan(surface, subject, EXPRESSIONS[expression], QUICK, rng=rng, voxel_mm=2.5, textured=textured)


@pytest.fixture(scope="module")
def neutral(surface):
    return scan_of(surface)


def test_the_scan_lies_on_the_true_skin_and_hair_above_it(neutral):
    front = neutral.truth.vertices[:, 2] > 40
    bald = front & (neutral.truth.hair_mm < 0.01)
    hairy = neutral.truth.hair_mm > 2
    distance = ClosestPoints(neutral.mesh.vertices, neutral.mesh.faces).query(neutral.truth.vertices).distance
    assert np.median(distance[bald]) < 0.3
    assert hairy.any()
    assert np.median(distance[hairy]) > 1


def test_the_scan_has_its_own_triangulation_and_holes(neutral):
    from nphm_core.geometry.mesh import unique_edges

    _, count = unique_edges(neutral.mesh.faces)
    assert (count == 1).any()
    assert neutral.mesh.n_faces > 5000
    assert neutral.mesh.colours is not None
    assert neutral.mesh.colours.std(0).min() > 10


def test_an_expression_moves_the_truth_where_it_should(surface, neutral):
    smile, opened = scan_of(surface, "smile"), scan_of(surface, "mouth-open")
    material = surface.head_map.model.v_template * 1000
    assert smile.truth.coefficients.expression.tolist() == [0.9, 0.9]
    moved = np.linalg.norm(opened.truth.vertices - neutral.truth.vertices, axis=1)
    chin = (material[:, 1] < -60) & (material[:, 2] > 30)
    assert moved[chin].min() > 5
    assert moved[material[:, 1] > 0].max() < 0.01


def test_delivery_turns_truth_and_scan_alike(neutral):
    turn = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    delivered = deliver(neutral, turn, 1000.0)
    assert np.allclose(delivered.mesh.vertices * 1000, neutral.mesh.vertices @ turn.T)
    assert np.allclose(delivered.truth.vertices, neutral.truth.vertices @ turn.T)
    assert np.allclose(
        delivered.truth.T_metric_head.apply(neutral.truth.vertices),
        delivered.truth.vertices,
    )


def test_the_seed_decides_the_scan(surface, neutral):
    same, other = scan_of(surface, seed=1), scan_of(surface, seed=2)
    assert (same.mesh.vertices == neutral.mesh.vertices).all()
    assert (same.mesh.colours == neutral.mesh.colours).all()
    assert len(other.mesh.vertices) != len(neutral.mesh.vertices)
    # Another look at the same person.
    assert (other.truth.vertices == neutral.truth.vertices).all()


def test_subjects_differ_and_their_relief_is_beyond_the_model(surface):
    subjects = [draw_subject(2, rng=np.random.default_rng(seed)) for seed in (3, 4)]
    one, two = (surface.pose(subject, EXPRESSIONS["neutral"]).skin for subject in subjects)
    assert np.linalg.norm(one - two, axis=1).mean() > 1
    plain = surface.pose(replace(subjects[0], relief=0.0), EXPRESSIONS["neutral"]).skin
    deviation = np.linalg.norm(one - plain, axis=1)
    assert 0.3 < deviation.mean() < 2
    n = surface.head_map.model.n_vertices
    assert deviation[:n][surface.head_map.eyeball].max() < 1e-9


def test_photographs_show_what_vertex_colours_show(surface, neutral, tmp_path):
    textured = scan_of(surface, textured=True)
    path = tmp_path / "head.obj"
    write_obj(path, textured.mesh)
    mesh = read_scan(path)
    assert mesh.n_vertices == neutral.mesh.n_vertices
    assert np.abs(mesh.vertices - neutral.mesh.vertices).max() < 1e-5
    uv = mesh.texture.uv.mean(1)
    height, width = mesh.texture.image.shape[:2]
    row, column = ((1 - uv[:, 1]) * height).astype(int), (uv[:, 0] * width).astype(int)
    seen = mesh.texture.image[row, column].astype(float)
    painted = neutral.mesh.colours[neutral.mesh.faces].astype(float).mean(1)
    assert np.median(np.abs(seen - painted)) < 8


def test_the_tongue_goes_with_the_jaw_and_is_no_part_of_the_truth(surface):
    subject = draw_subject(2, rng=np.random.default_rng(3))
    shut, opened = (surface.pose(subject, EXPRESSIONS[name]) for name in ("neutral", "mouth-open"))
    tongue = slice(-shut.n_tongue_vertices, None)
    tip = shut.vertices[tongue, 2].argmax()
    assert opened.vertices[tongue][tip, 1] < shut.vertices[tongue][tip, 1] - 3
    assert shut.n_template_vertices == surface.head_map.model.n_vertices
    # The jaw turns it and keeps its shape.
    sizes = [np.linalg.norm(np.ptp(p.vertices[tongue] - p.vertices[tongue].mean(0), axis=0)) for p in (shut, opened)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)
