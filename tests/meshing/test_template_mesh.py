"""The template lands on known surfaces without folds, and what the field does not model follows."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from nphm_core.errors import TemplateError
from nphm_core.geometry.mesh import Mesh, face_normals
from nphm_core.meshing.anchor_start import bent_to_points, template_at_anchors
from nphm_core.meshing.displacement import SmoothDisplacement
from nphm_core.meshing.grid import Box
from nphm_core.meshing.template_mesh import project_template, template_head
from tests.meshing.sphere_head import SphereHead, ball, ball_template

BOX = Box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
NOSE = np.array([0.0, 0.0, 0.4])


@pytest.fixture(scope="module")
def sphere_mesh():
    return ball()


def sphere_with_nose(points):
    """A smooth union by log-sum-exp of a ball and a nose, with its gradient; no exact distance."""
    points = points.detach().requires_grad_(True)
    with torch.enable_grad():
        head = points.norm(dim=1) - 0.4
        nose = (points - points.new_tensor(NOSE)).norm(dim=1) - 0.06
        sdf = -torch.logsumexp(torch.stack([-40 * head, -40 * nose]), dim=0) / 40
        return sdf.detach(), torch.autograd.grad(sdf.sum(), points)[0]


def plain_sphere(points):
    return points.norm(dim=1) - 0.4, functional.normalize(points, dim=1)


def angles_to_field(vertices, faces, field):
    middle = torch.from_numpy(vertices[faces].mean(axis=1)).float()
    return np.einsum("ij,ij->i", face_normals(vertices, faces)[0], field(middle)[1].numpy())


def test_a_mesh_beside_a_head_lands_on_it_without_folds(sphere_mesh):
    unit, faces = sphere_mesh
    start = 0.42 * unit * [1.0, 0.93, 1.05] + [0.01, 0.0, -0.01]
    found = project_template(sphere_with_nose, start, faces, np.zeros(len(unit), bool), box=BOX)
    assert found.on_surface.all()
    assert found.distance_mm.max() < 0.01
    assert angles_to_field(found.vertices, faces, sphere_with_nose).min() > 0.5
    # Vertices stay in their places along the surface: the nose is met by those in front of it.
    at_nose = np.linalg.norm(found.vertices - NOSE, axis=1) < 0.09
    assert unit[at_nose, 2].min() > 0.9


def test_vertices_of_a_head_that_are_on_it_stay(sphere_mesh):
    unit, faces = sphere_mesh
    found = project_template(plain_sphere, 0.4 * unit, faces, np.zeros(len(unit), bool), box=BOX)
    np.testing.assert_allclose(found.vertices, 0.4 * unit, atol=1e-6)


def test_what_the_field_does_not_model_follows_its_surroundings(sphere_mesh):
    unit, faces = sphere_mesh
    follows = np.linalg.norm(unit - [0, 0, 1.0], axis=1) < 0.3
    # A dent that no field knows of, as a mouth's inside is.
    start = 0.44 * unit - np.where(follows[:, None], [0, 0, 0.05], 0.0)
    found = project_template(plain_sphere, start, faces, follows, box=BOX)
    assert not found.on_surface[follows].any()
    assert found.on_surface[~follows].all()
    depth = 0.4 - np.linalg.norm(found.vertices[follows], axis=1)
    assert np.median(depth) == pytest.approx(0.05, abs=0.01)


def test_a_loose_piece_is_carried_by_what_lies_around_it(sphere_mesh):
    unit, faces = sphere_mesh
    eye, eye_faces = ball(2)
    start = np.concatenate([0.42 * unit + [0.03, 0, 0], 0.05 * eye + [0.03, 0.1, 0.39]])
    both = np.concatenate([faces, eye_faces + len(unit)])
    follows = np.arange(len(start)) >= len(unit)
    found = project_template(plain_sphere, start, both, follows, box=BOX)
    moved = found.vertices[follows]
    radius = np.linalg.norm(moved - moved.mean(axis=0), axis=1)
    assert np.ptp(radius) < 1e-6
    assert radius.mean() == pytest.approx(0.05, rel=0.1)
    np.testing.assert_allclose(moved.mean(axis=0), np.array([0.0, 0.1, 0.39]) * 0.4 / 0.42, atol=0.02)


def test_outside_the_box_the_field_has_no_say(sphere_mesh):
    unit, faces = sphere_mesh
    low = Box((-1.0, -0.25, -1.0), (1.0, 1.0, 1.0))
    found = project_template(plain_sphere, 0.43 * unit, faces, np.zeros(len(unit), bool), box=low)
    assert not found.on_surface[found.vertices[:, 1] < -0.26].any()
    assert found.distance_mm[found.vertices[:, 1] < -0.3].max() < 6.0


def test_a_template_that_is_nowhere_near_is_refused(sphere_mesh):
    unit, faces = sphere_mesh
    with pytest.raises(TemplateError, match="may be untrained"):
        project_template(plain_sphere, 0.8 * unit, faces, np.zeros(len(unit), bool), box=BOX)


def test_filling_in_reproduces_a_shift(sphere_mesh):
    unit, faces = sphere_mesh
    smooth = SmoothDisplacement(unit, faces)
    known = unit[:, 2] < 0.5
    filled = smooth.filled(unit + [0.1, 0.2, 0.3], known, with_scale=False)
    np.testing.assert_allclose(filled, unit + [0.1, 0.2, 0.3], atol=1e-8)
    with pytest.raises(ValueError, match="at least 3"):
        smooth.filled(unit, np.zeros(len(unit), bool), with_scale=False)


def test_a_bend_meets_its_points_and_fades_to_their_common_shift():
    rng = np.random.default_rng(0)
    source = rng.standard_normal((39, 3))
    target = source + 0.01 * rng.standard_normal((39, 3))
    np.testing.assert_allclose(bent_to_points(source, source, target), target, atol=1e-9)
    np.testing.assert_allclose(bent_to_points(source, source, source + 0.5), source + 0.5, atol=1e-9)


def test_a_head_in_template_topology_has_its_vertices_landmarks_and_morph_targets():
    template, head = ball_template(), SphereHead()
    unit, faces = ball()
    codes = torch.tensor([[0.0, 1.0], [0.1, 0.8]])
    found = template_head(head, template, torch.tensor([0.36]), codes)
    assert found.canonical.on_surface[~template.regions["hidden"]].all()
    np.testing.assert_allclose(found.canonical.vertices, 0.36 * unit, atol=5e-3)
    np.testing.assert_allclose(found.posed[0], found.canonical.vertices, atol=1e-6)
    seen = found.canonical.on_surface
    moved = found.canonical.vertices * [1, 0.8, 1] + [0.1, 0, 0]
    np.testing.assert_allclose(found.posed[1][seen], moved[seen], atol=1e-6)
    # What is hidden follows; a stretch is no rigid motion, so it does so nearly.
    np.testing.assert_allclose(found.posed[1], moved, atol=0.02)
    np.testing.assert_allclose(found.landmarks(1)[33], moved[faces[20]].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.landmarks68(1), moved[faces[:68, 0]], atol=1e-6)
    assert found.mesh(1).faces is template.faces


def test_a_registered_head_may_be_the_start():
    template, head = ball_template(), SphereHead()
    unit, faces = ball()
    found = template_head(head, template, torch.tensor([0.36]), rest=Mesh(0.37 * unit, faces))
    seen = found.canonical.on_surface
    np.testing.assert_allclose(found.canonical.vertices[seen], 0.36 * unit[seen], atol=5e-4)
    # Around the hidden pole all move sideways, and what follows them takes their mean.
    np.testing.assert_allclose(found.canonical.vertices, 0.36 * unit, atol=5e-3)
    assert found.posed.shape == (0, len(unit), 3)
    assert found.mesh().n_vertices == len(unit)


def test_the_template_opens_its_mouth_as_the_anchors_say():
    template = ball_template(has_jaw=True)
    truth = 4 * template.model.pose(np.array([1.5]), None, {"jaw": np.array([0.2, 0.0, 0.0])})
    found = template_at_anchors(template, truth[template.anchors])
    np.testing.assert_allclose(found[template.anchors], truth[template.anchors], atol=1e-6)
    error = np.linalg.norm(found - truth, axis=1)
    opened = np.linalg.norm(truth - 4 * template.model.pose(np.array([1.5])), axis=1)
    # Canonical units: half a millimetre mostly, more where the jaw ends sharply, between anchors.
    assert np.median(error) < 0.002
    assert error.max() < 0.25 * opened.max()


def test_a_template_without_anchors_is_refused():
    template = dataclasses.replace(ball_template(), anchors=np.zeros(39, np.int64))
    with pytest.raises(TemplateError, match="1 different anchors; expected 39"):
        template_at_anchors(template, np.zeros((39, 3)))


def test_what_is_behind_a_surface_stays_behind_it():
    # A pouch behind the front of a ball, which is pushed in by more than the pouch's depth.
    unit, faces = ball()
    pouch = np.array([[0.0, 0.0, 0.33], [0.05, 0.0, 0.33], [0.0, 0.05, 0.33]])
    rim = np.flatnonzero(np.linalg.norm(unit - [1.0, 0, 0], axis=1) < 1e-9)
    rest = np.concatenate([0.4 * unit, pouch])
    # A long triangle ties the pouch to a rim far away that does not move.
    both = np.concatenate([faces, [[rim[0], len(unit), len(unit) + 1], [len(unit), len(unit) + 1, len(unit) + 2]]])
    moved = rest - np.where(rest[:, 2:] > 0.25, [0, 0, 0.1], 0.0)
    known = np.arange(len(rest)) < len(unit)
    filled = SmoothDisplacement(rest, both).filled(moved, known, with_scale=True)
    assert filled[-3:, 2].max() < 0.27
