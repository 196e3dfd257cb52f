"""Heads that follow sliders lie on the surface that the model has."""

import numpy as np
import pytest

from nphm_core.models.linear_head import LinearHead
from nphm_core.viewing.shaper import SupersededError, head_shaper
from nphm_core.viewing.wish import HeadWish
from tests.meshing.sphere_head import SphereHead, ball_template


@pytest.fixture(scope="module")
def shaper():
    return head_shaper(SphereHead(), ball_template())


@pytest.mark.parametrize("axis", [-1.5, 0.0, 1.0])
def test_the_quick_head_lies_on_the_models_surface(shaper, axis):
    radius = float(shaper.codes.identity(HeadWish(identity_axes=(axis,))))
    mesh = shaper.quick(HeadWish(identity_axes=(axis,)))
    away = np.linalg.norm(mesh.vertices, axis=1)
    visible = mesh.vertices[:, 1] > -0.85 * radius
    np.testing.assert_allclose(away[visible], radius, atol=1e-3)  # a quarter of a mm
    np.testing.assert_allclose(away, radius, atol=0.04)


def test_quick_heads_share_their_triangles_and_move_with_the_expression(shaper):
    rest = shaper.quick(HeadWish(subject="large"))
    low = shaper.quick(HeadWish(subject="large", expression="large/low"))
    np.testing.assert_array_equal(rest.faces, low.faces)
    seen = shaper._rig._seen
    expected = rest.vertices * [1, 0.8, 1] + [0.1, 0, 0]
    np.testing.assert_allclose(low.vertices[seen], expected[seen], atol=1e-6)
    np.testing.assert_allclose(low.vertices[~seen], expected[~seen], atol=0.05)


def test_a_quick_head_does_not_depend_on_what_was_shown_before(shaper):
    first = shaper.quick(HeadWish(subject="small")).vertices
    shaper.quick(HeadWish(subject="large", identity_axes=(2.0,)))
    np.testing.assert_array_equal(shaper.quick(HeadWish(subject="small")).vertices, first)


def test_the_proper_head_is_extracted_once_for_all_expressions_of_an_identity(shaper):
    rest = shaper.proper(HeadWish(subject="large"), 32)
    low = shaper.proper(HeadWish(subject="large", expression="large/low"), 32)
    np.testing.assert_allclose(np.linalg.norm(rest.vertices, axis=1), 0.4, atol=4e-3)
    np.testing.assert_allclose(low.vertices, rest.vertices * [1, 0.8, 1] + [0.1, 0, 0], atol=1e-6)
    assert shaper.proper(HeadWish(subject="large"), 48).n_vertices > rest.n_vertices


@pytest.mark.parametrize(("is_backward", "template"), [(False, None), (True, ball_template())])
def test_without_a_way_for_the_template_the_quick_head_is_a_coarse_extraction(is_backward, template):
    shaper = head_shaper(SphereHead(is_backward=is_backward), template)
    mesh = shaper.quick(HeadWish(subject="large", expression="large/low"))
    inside = (mesh.vertices - [0.1, 0, 0]) / [1, 0.8, 1]
    np.testing.assert_allclose(np.linalg.norm(inside, axis=1), 0.4, atol=4e-3)


def test_an_extraction_that_is_no_longer_wanted_ends(shaper):
    asked = []
    with pytest.raises(SupersededError):
        shaper.proper(HeadWish(identity_axes=(0.5,)), 64, lambda: asked.append(1) or len(asked) > 2)
    assert len(asked) == 3


def test_a_linear_head_is_proper_at_once():
    faces = np.array([[0, 1, 2]])
    basis = np.zeros((3, 3, 1), np.float32)
    basis[0, 0, 0] = 1.0
    head = LinearHead(
        mean=np.eye(3, dtype=np.float32), identity_basis=basis, expression_basis=-basis,
        expression_mean=np.zeros(1, np.float32), faces=faces, anchors=np.zeros(1, int), visible=np.ones(3, bool),
        template_hash="x", subjects=("a", "b"), scans=("a/x", "b/x"),
        identity_codes=np.array([[1.0], [-1.0]], np.float32), expression_codes=np.array([[0.5], [-0.5]], np.float32),
    )  # fmt: skip
    shaper = head_shaper(head, None)
    assert shaper.codes.regions == ()
    np.testing.assert_allclose(shaper.quick(HeadWish(subject="a")).vertices[0], [2.0, 0, 0])
    posed = shaper.proper(HeadWish(subject="a", expression="b/x"), 64)
    np.testing.assert_allclose(posed.vertices[0], [2.5, 0, 0])


def test_a_vertex_that_the_field_leads_astray_moves_as_its_neighbours_do(monkeypatch):
    shaper = head_shaper(SphereHead(), ball_template())
    rig = shaper._rig
    stray = int(np.argmax(rig._rest[rig._seen][:, 2]))
    truth = rig._sdf

    def misleading(points, code):
        out = truth(points, code)
        out[stray] = -0.05
        return out

    monkeypatch.setattr(rig, "_sdf", misleading)
    mesh = shaper.quick(HeadWish(subject="small"))
    away = np.linalg.norm(mesh.vertices[rig._seen], axis=1)
    assert away[stray] == pytest.approx(0.3, abs=2e-3)
