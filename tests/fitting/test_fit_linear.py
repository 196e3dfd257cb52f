"""Points sampled from a linear head lead back to its codes, in any pose, unit and with noise."""

import numpy as np
import pytest
import torch

from nphm_core.config import FitConfig
from nphm_core.errors import FittingError
from nphm_core.fitting.fit import FitResult
from nphm_core.fitting.fit_linear import fit_linear_heads
from nphm_core.fitting.linear_energy import Cloud, Kernel, LinearEnergy
from nphm_core.fitting.linear_surface import LinearSurface
from nphm_core.fitting.observations import Observation
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import face_normals, vertex_normals
from nphm_core.geometry.sampling import interpolate, sample_surface
from nphm_core.models.linear_head import LinearHead
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, Similarity
from nphm_core.template.rotations import rotation_matrices
from tests.fitting.linear_heads import N_EXPRESSION, N_IDENTITY, small_head

IDENTITY = np.array([1.0, -0.8, 0.5, 1.2, -1.0])
EXPRESSIONS = np.array([[0.5, 1.0, -0.7], [-0.5, 0.3, 1.2]])
AS_IT_IS = Similarity(250.0, np.eye(3), np.zeros(3))
TURNED = Similarity(0.31, rotation_matrices(np.array([[0.4, -0.9, 0.7]]))[0], np.array([5.0, -2.0, 11.0]))


@pytest.fixture(scope="module")
def head() -> LinearHead:
    return small_head()


def observe(
    head: LinearHead,
    expression: np.ndarray,
    T_observed_canonical: Similarity,
    rng: np.random.Generator,
    *,
    noise_mm: float = 0.0,
    front_only: bool = False,
    n: int = 1500,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw points and normals of the posed head, in the observed frame."""
    vertices = head.posed(IDENTITY, expression)
    normals, _ = face_normals(vertices, head.faces)
    weights = (normals[:, 2] > 0.1).astype(float) if front_only else None
    drawn = sample_surface(vertices, head.faces, n, rng=rng, face_weights=weights)
    points = interpolate(vertices, head.faces, drawn.face, drawn.barycentric)
    points = points + noise_mm / MM_PER_CANONICAL_UNIT * rng.standard_normal(points.shape)
    smooth = interpolate(vertex_normals(vertices, head.faces), head.faces, drawn.face, drawn.barycentric)
    turned = T_observed_canonical.apply_directions(smooth / np.linalg.norm(smooth, axis=1, keepdims=True))
    return T_observed_canonical.apply(points), turned


def fit_one(head: LinearHead, *observations: Observation) -> FitResult:
    settings = FitConfig(n_points=1500, min_spread_mm=0.02)
    return fit_linear_heads(head, [observations], settings, generator=torch.Generator().manual_seed(0))[0]


def surface_error_mm(head: LinearHead, fit: FitResult, k: int, T_observed_canonical: Similarity) -> float:
    """Mean distance of the true vertices from the fitted surface, both seen in the true canonical frame."""
    true = head.posed(IDENTITY, EXPRESSIONS[k])
    T_canonical_fitted = T_observed_canonical.inverse() @ fit.T_canonical_observed[k].inverse()
    fitted = T_canonical_fitted.apply(head.posed(fit.identity_code, fit.expression_codes[k]))
    return float(ClosestPoints(fitted, head.faces).query(true).distance.mean() * MM_PER_CANONICAL_UNIT)


def test_exact_points_give_codes_and_pose_back(head):
    points, normals = observe(head, EXPRESSIONS[0], AS_IT_IS, np.random.default_rng(1))
    fit = fit_one(head, Observation(points, normals, T_canonical_observed=AS_IT_IS.inverse()))
    assert np.abs(fit.identity_code - IDENTITY).max() < 0.02
    assert np.abs(fit.expression_codes[0] - EXPRESSIONS[0]).max() < 0.02
    assert fit.residual_mm[0] < 0.03
    assert np.abs((fit.T_canonical_observed[0] @ AS_IT_IS).matrix() - np.eye(4)).max() < 2e-3


@pytest.mark.parametrize("with_normals", [True, False])
def test_points_in_any_pose_and_unit_give_the_same_head_without_a_start(head, with_normals):
    points, normals = observe(head, EXPRESSIONS[0], TURNED, np.random.default_rng(1), front_only=True)
    fit = fit_one(head, Observation(points, normals if with_normals else None))
    assert surface_error_mm(head, fit, 0, TURNED) < 0.3


def test_a_start_thirty_degrees_fifty_millimetres_and_a_third_of_the_size_away_does_no_harm(head):
    rng = np.random.default_rng(4)
    points, _ = observe(head, EXPRESSIONS[0], TURNED, rng, noise_mm=0.5, front_only=True)
    exact = fit_one(head, Observation(points, T_canonical_observed=TURNED.inverse()))
    turn = rotation_matrices(np.array([[0.3, -0.35, 0.25]]))[0]
    wrong = Similarity(1.3, turn, np.array([0.1, -0.12, 0.12])) @ TURNED.inverse()
    off = fit_one(head, Observation(points, T_canonical_observed=wrong))
    assert surface_error_mm(head, off, 0, TURNED) < 1.1 * surface_error_mm(head, exact, 0, TURNED) + 0.02


def test_scans_of_one_subject_share_its_identity(head):
    rng = np.random.default_rng(2)
    first, _ = observe(head, EXPRESSIONS[0], AS_IT_IS, rng, noise_mm=0.3, front_only=True)
    second, _ = observe(head, EXPRESSIONS[1], TURNED, rng, noise_mm=0.3)
    fit = fit_one(
        head,
        Observation(first, T_canonical_observed=AS_IT_IS.inverse()),
        Observation(second, T_canonical_observed=TURNED.inverse()),
    )
    assert fit.expression_codes.shape == (2, N_EXPRESSION)
    assert np.abs(fit.identity_code - IDENTITY).max() < 0.15
    for k, pose in enumerate((AS_IT_IS, TURNED)):
        assert surface_error_mm(head, fit, k, pose) < 0.25


@pytest.mark.parametrize("noise_mm", [0.5, 1.5])
def test_the_fit_is_far_better_than_the_noise(head, noise_mm):
    points, _ = observe(head, EXPRESSIONS[0], AS_IT_IS, np.random.default_rng(5), noise_mm=noise_mm)
    fit = fit_one(head, Observation(points, T_canonical_observed=AS_IT_IS.inverse()))
    assert surface_error_mm(head, fit, 0, AS_IT_IS) < 0.25 * noise_mm
    # What is left of the noise along the normal, less what lies on other triangles nearby.
    assert 1.4826 * fit.residual_mm[0] == pytest.approx(noise_mm, rel=0.15)


def test_far_away_points_do_not_pull_the_fit(head):
    rng = np.random.default_rng(6)
    points, _ = observe(head, EXPRESSIONS[0], AS_IT_IS, rng)
    clutter = AS_IT_IS.apply(np.array([0.0, -0.7, 0.0]) + 0.12 * rng.standard_normal((200, 3)))
    fit = fit_one(head, Observation(np.concatenate([points, clutter]), T_canonical_observed=AS_IT_IS.inverse()))
    assert surface_error_mm(head, fit, 0, AS_IT_IS) < 0.1


def test_points_that_are_not_finite_are_left_out(head):
    points, _ = observe(head, EXPRESSIONS[0], AS_IT_IS, np.random.default_rng(1))
    points[::7] = np.nan
    fit = fit_one(head, Observation(points, T_canonical_observed=AS_IT_IS.inverse()))
    assert surface_error_mm(head, fit, 0, AS_IT_IS) < 0.1


def test_few_points_are_refused(head):
    with pytest.raises(FittingError, match="10 usable points; expected at least 50"):
        fit_one(head, Observation(np.zeros((10, 3))))


def test_the_same_points_give_the_same_bits(head):
    points, _ = observe(head, EXPRESSIONS[0], AS_IT_IS, np.random.default_rng(1), noise_mm=0.5)
    first, second = (fit_one(head, Observation(points, T_canonical_observed=AS_IT_IS.inverse())) for _ in range(2))
    assert np.array_equal(first.identity_code, second.identity_code)


@pytest.mark.parametrize("with_normals", [True, False])
def test_the_gradient_is_that_of_the_energy(with_normals):
    # Fine, as normals are interpolated and the energy sees flat triangles.
    head = small_head(levels=6)
    rng = np.random.default_rng(8)
    points, normals = observe(head, EXPRESSIONS[0], Similarity.identity(), rng, noise_mm=1.0, n=400)
    anchors = head.posed(IDENTITY, EXPRESSIONS[0])[head.anchors] + 0.01
    anchors[2] = np.nan
    on = float(with_normals)
    cloud = Cloud(points, rng.uniform(0.5, 1, len(points)), on * normals, anchors, 1.0, 0.1)
    energy = LinearEnergy(LinearSurface(head), (cloud,), FitConfig())
    turn = rotation_matrices(np.array([[0.02, 0.01, -0.03]]))[0]
    codes = energy.start((Similarity(1.02, turn, np.array([0.01, 0.0, -0.01])),))
    kernel = Kernel(4.0, (0.7,))
    _, gradient = energy.normal_equations(codes, energy.match(codes), kernel)
    for index in range(len(gradient)):
        step = np.zeros(len(gradient))
        step[index] = 1e-2 if index < N_IDENTITY + N_EXPRESSION else 1e-3
        values = []
        for sign in (1, -1):
            moved = energy.moved(codes, sign * step)
            values.append(energy.value(moved, energy.match(moved), kernel))
        # The energy's derivative is twice the gradient of half of it.
        slope = (values[0] - values[1]) / (2 * step[index]) / 2
        assert gradient[index] == pytest.approx(slope, rel=0.05, abs=0.03 * np.abs(gradient).max())


def test_anchors_lead_to_the_pose_where_the_shape_alone_does_not(head):
    points, _ = observe(head, EXPRESSIONS[0], TURNED, np.random.default_rng(3), n=300)
    anchors = TURNED.apply(head.posed(IDENTITY, EXPRESSIONS[0])[head.anchors])
    anchors[1] = np.nan
    fit = fit_one(head, Observation(points, anchors=anchors))
    assert surface_error_mm(head, fit, 0, TURNED) < 0.3
    found = fit.T_canonical_observed[0].apply(anchors)
    expected = head.posed(fit.identity_code, fit.expression_codes[0])[head.anchors]
    assert np.nanmax(np.linalg.norm(found - expected, axis=1)) * MM_PER_CANONICAL_UNIT < 2


def test_a_known_unit_holds_the_size(head):
    points, _ = observe(head, EXPRESSIONS[0], AS_IT_IS, np.random.default_rng(5), noise_mm=1.0, front_only=True, n=200)
    wrong = Observation(points, T_canonical_observed=AS_IT_IS.inverse(), mm_per_unit=1.1)
    fit = fit_linear_heads(head, [(wrong,)], FitConfig(scale_std=1e-4), generator=torch.Generator().manual_seed(0))[0]
    assert fit.T_canonical_observed[0].scale * MM_PER_CANONICAL_UNIT == pytest.approx(1.1, abs=0.002)


def test_points_without_weight_do_not_count(head):
    points, _ = observe(head, EXPRESSIONS[0], AS_IT_IS, np.random.default_rng(1))
    points[::3] += [0, 8, 0]
    weights = np.ones(len(points))
    weights[::3] = 0
    fit = fit_one(head, Observation(points, weights=weights, T_canonical_observed=AS_IT_IS.inverse()))
    assert surface_error_mm(head, fit, 0, AS_IT_IS) < 0.1
