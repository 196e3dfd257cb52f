"""The head-model fit on a toy head whose coefficients are known."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial import cKDTree

from nphm_core.config import FlameFitConfig
from nphm_core.errors import RegistrationError
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import Mesh, vertex_normals
from nphm_core.geometry.subdivision import loop_subdivision
from nphm_core.registration.flame_fit import FlameFit, ScanLandmarks, fit_flame
from nphm_core.registration.flame_problem import FitProblem, FitState, FitStep, LandmarkPairs
from nphm_core.registration.scan_surface import ScanSurface, bend_per_mm, scan_surface
from nphm_core.spaces import Similarity
from nphm_core.template.model import Coefficients

IDENTITY = np.array([1.5, -1.0, 0.5, 2.0, -0.7, 0.0, 1.1, -1.8])
TURN = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
POSE = Similarity(1000.0, TURN, np.array([400.0, -30.0, 900.0]))


def _coefficients(expression=(0.0, 0.0), jaw=0.0) -> Coefficients:
    return Coefficients(IDENTITY, np.array(expression), np.array([[0, 0, 0], [0, 0, 0], [jaw, 0, 0]], float))


def _scan(template, coefficients, pose=POSE, hair_mm=0.0):
    """Give a scan of a posed toy head with twice the triangles and without the neck, its landmarks and its truth."""
    truth = pose.apply(template.model.posed(coefficients))
    step = loop_subdivision(template.model.faces, len(truth))
    fine = step.matrix @ truth
    if hair_mm:
        hair = step.matrix @ template.regions["scalp"].astype(float)
        centre = truth.mean(axis=0)
        out = (fine - centre) / np.linalg.norm(fine - centre, axis=1, keepdims=True)
        fine = fine + out * (hair_mm * hair)[:, None]
    low = (step.matrix @ template.regions["boundary"].astype(float)) > 0.5
    mesh = Mesh(fine, step.faces[~low[step.faces].any(axis=1)])
    points = template.landmarks.points(truth, template.model.faces)
    landmarks = ScanLandmarks(template.landmarks.index, points, np.ones(len(points)))
    return scan_surface(mesh, 1.0, points, landmarks.index), landmarks, truth


def _fit(template, scan, landmarks, **options) -> FlameFit:
    options = {"fit_scale": False, "rng": np.random.default_rng(0)} | options
    return fit_flame(template, scan, landmarks, FlameFitConfig(), **options)


@pytest.mark.parametrize(("expression", "jaw"), [((0.0, 0.0), 0.0), ((1.0, 0.3), 0.0), ((0.0, 0.0), 0.3)])
def test_fit_recovers_a_known_head(toy_template, expression, jaw):
    scan, landmarks, truth = _scan(toy_template, _coefficients(expression, jaw))
    fit = _fit(toy_template, scan, landmarks)
    error_mm = np.linalg.norm(fit.vertices_mm - truth, axis=1)[toy_template.regions["face"]]
    assert np.median(error_mm) < 0.4
    assert fit.residual_mm < 0.2
    assert fit.coefficients.rotations[2, 0] == pytest.approx(jaw, abs=0.05)


def test_fit_turns_with_the_scan(toy_template):
    scan, landmarks, _ = _scan(toy_template, _coefficients())
    move = Similarity(1.0, TURN @ TURN, np.array([5.0, 6.0, -7.0]))
    moved = type(scan)(
        move.apply(scan.vertices), scan.faces, move.apply_directions(scan.normals), scan.border, scan.bare, "none"
    )
    marks = ScanLandmarks(landmarks.index, move.apply(landmarks.points_mm), landmarks.weight)
    a, b = _fit(toy_template, scan, landmarks), _fit(toy_template, moved, marks)
    np.testing.assert_allclose(move.apply(a.vertices_mm), b.vertices_mm, atol=0.05)
    np.testing.assert_allclose(
        a.T_canonical_metric.apply(a.vertices_mm), b.T_canonical_metric.apply(b.vertices_mm), atol=5e-4
    )


def test_scale_is_found_where_the_unit_is_unknown(toy_template):
    pose = Similarity(1400.0, POSE.rotation, POSE.translation)
    scan, landmarks, truth = _scan(toy_template, _coefficients(), pose)
    fit = _fit(toy_template, scan, landmarks, fit_scale=True)
    assert np.median(np.linalg.norm(fit.vertices_mm - truth, axis=1)[toy_template.regions["face"]]) < 1.0
    assert 1200 < fit.T_metric_model.scale < 1600


def test_given_identity_is_kept(toy_template):
    scan, landmarks, truth = _scan(toy_template, _coefficients((0.8, -0.5)))
    fit = _fit(toy_template, scan, landmarks, identity=IDENTITY)
    np.testing.assert_array_equal(fit.coefficients.identity, IDENTITY)
    assert np.median(np.linalg.norm(fit.vertices_mm - truth, axis=1)) < 0.2


def test_hair_does_not_pull_the_skull(toy_template):
    scan, landmarks, truth = _scan(toy_template, _coefficients(), hair_mm=15.0)
    fit = _fit(toy_template, scan, landmarks)
    error_mm = np.linalg.norm(fit.vertices_mm - truth, axis=1)
    assert np.median(error_mm[toy_template.regions["face"]]) < 1.0
    assert np.median(error_mm[toy_template.regions["scalp"]]) < 5.0


def test_fit_refuses_few_landmarks(toy_template):
    scan, landmarks, _ = _scan(toy_template, _coefficients())
    few = ScanLandmarks(landmarks.index[:5], landmarks.points_mm[:5], landmarks.weight[:5])
    with pytest.raises(RegistrationError, match="5 landmarks; at least 12"):
        _fit(toy_template, scan, few)


def test_fit_refuses_a_scan_that_is_elsewhere(toy_template):
    scan, landmarks, _ = _scan(toy_template, _coefficients())
    away = ScanLandmarks(landmarks.index, landmarks.points_mm + 300.0, landmarks.weight)
    with pytest.raises(RegistrationError, match="of the face corresponds"):
        _fit(toy_template, scan, away)


def test_gradient_is_that_of_the_energy(toy_template):
    """The Gauss-Newton gradient against central differences of the energy (slow twin)."""
    scan, landmarks, _ = _scan(toy_template, _coefficients((0.4, 0.2), 0.2))
    corners = toy_template.model.faces[toy_template.landmarks.face]
    pairs = LandmarkPairs(corners, toy_template.landmarks.barycentric, landmarks.points_mm, landmarks.weight)
    problem = FitProblem(
        toy_template.model,
        scan,
        ClosestPoints(scan.vertices, scan.faces),
        pairs,
        np.ones(toy_template.n_vertices),
        toy_template.regions["hair_prone"],
        priors=(0.3, 0.3),
        n_identity=8,
        n_expression=2,
        identity=None,
        fit_scale=True,
    )
    step = FitStep(5.0, 20.0, 1.0, 1.0, 1.0)
    start = Coefficients(IDENTITY * 0.5, np.array([0.1, 0.0]), np.array([[0, 0, 0], [0.02, 0, 0], [0.1, 0, 0]], float))
    state = FitState(start, POSE)
    sample = problem.choose_vertices(300, np.random.default_rng(0))
    found = problem.correspond(state, sample, step)
    _, gradient = problem.normal_equations(state, sample, found, step)
    small = 1e-3
    for k in range(len(gradient)):
        delta = np.zeros(len(gradient))
        delta[k] = small
        up = problem.energy(problem.moved(state, sample, delta), sample, found, step)
        down = problem.energy(problem.moved(state, sample, -delta), sample, found, step)
        # The log scale has a prior on the step only, which the energy leaves out.
        assert (up - down) / (4 * small) == pytest.approx(gradient[k], rel=2e-3, abs=0.05)


@pytest.mark.parametrize(("rough", "bald"), [("face", True), ("scalp", False)])
def test_a_skin_coloured_scalp_is_bald_only_if_it_is_smoother_than_the_face(toy_template, rough, bald):
    scan, landmarks, truth = _scan(toy_template, _coefficients())
    near = cKDTree(truth[toy_template.regions[rough]]).query(scan.vertices)[0] < 4.0
    noise_mm = 0.6 * np.random.default_rng(0).standard_normal(len(scan.vertices)) * near
    vertices = scan.vertices + noise_mm[:, None] * scan.normals
    coloured = dataclasses.replace(
        scan,
        vertices=vertices,
        normals=vertex_normals(vertices, scan.faces),
        evidence="colour",
        bare=np.ones(len(near)),
    )
    assert _fit(toy_template, coloured, landmarks).bald is bald
    assert not _fit(toy_template, dataclasses.replace(coloured, evidence="roughness"), landmarks).bald


def test_a_sphere_bends_by_the_inverse_of_its_radius():
    points = np.random.default_rng(0).standard_normal((4000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    none = np.zeros((0, 3), int)
    cloud = ScanSurface(50.0 * points, none, points, np.zeros(4000, bool), np.ones(4000), "none")
    # On a circle the angle between normals is the distance over the radius.
    assert bend_per_mm(cloud, np.arange(100)) == pytest.approx(1 / 50, rel=0.01)
    assert bend_per_mm(cloud, np.arange(0)) == 0.0
