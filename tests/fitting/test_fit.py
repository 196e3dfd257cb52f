"""Points of a known head lead back to its codes and pose: partial, turned, far off, noisy, with outliers."""

import numpy as np
import pytest
import torch

from nphm_core.config import FitConfig
from nphm_core.errors import FittingError
from nphm_core.fitting.fit import FitResult, _batches, fit_heads
from nphm_core.fitting.measured_points import Pose, find_roots, measure
from nphm_core.fitting.observations import Observation
from nphm_core.models.neural_head import NeuralHead
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, Similarity
from nphm_core.template.rotations import rotation_matrices
from tests.fitting.blob_head import blob_head, surface_points

IDENTITY = torch.tensor([[0.9, -0.8, 0.5, 1.1, -1.0]])
EXPRESSIONS = torch.tensor([[0.7, -0.6], [-0.5, 0.8]])
TURNED = Similarity(275.0, rotation_matrices(np.array([[0.4, -0.9, 0.7]]))[0], np.array([50.0, -20.0, 110.0]))
SETTINGS = FitConfig(n_points=400, n_steps=12, n_starts=3)


@pytest.fixture(scope="module")
def head() -> NeuralHead:
    return blob_head()


def observe(
    head: NeuralHead,
    k: int = 0,
    T_observed_canonical: Similarity = TURNED,
    *,
    n: int = 600,
    noise_mm: float = 0.0,
    front_only: bool = True,
    **known,
) -> Observation:
    directions = torch.randn(n, 3, generator=torch.Generator().manual_seed(7 + k))
    if front_only:
        directions[:, 2] = directions[:, 2].abs()
    expression = EXPRESSIONS[k : k + 1] if head.expression is not None else None
    points, normals = (part.double().numpy() for part in surface_points(head, IDENTITY, expression, directions))
    points = points + noise_mm / MM_PER_CANONICAL_UNIT * np.random.default_rng(k).standard_normal(points.shape)
    # Searching everywhere takes two seconds more.
    known = {"T_canonical_observed": T_observed_canonical.inverse()} | known
    return Observation(T_observed_canonical.apply(points), T_observed_canonical.apply_directions(normals), **known)


def error_mm(
    head: NeuralHead, result: FitResult, k: int = 0, T_observed_canonical: Similarity = TURNED, scan: int = 0
) -> float:
    """Mean distance of true points, seen or not, from the fitted head."""
    whole = observe(head, k, Similarity.identity(), n=500, front_only=False).points
    T_canonical_true = result.T_canonical_observed[scan] @ T_observed_canonical
    points = torch.from_numpy(T_canonical_true.apply(whole)).float()[None]
    identity = torch.from_numpy(result.identity_code).float()[None]
    expression = torch.from_numpy(result.expression_codes[scan]).float()[None]
    pose = Pose(torch.eye(3)[None], torch.zeros(1, 3), torch.zeros(1))
    roots = find_roots(head, points, identity, expression, n_steps=12, tolerance=1e-4)
    found = measure(head, points, identity, expression, pose, roots)
    return MM_PER_CANONICAL_UNIT * float(found.distance.detach().abs().mean())


def fit_one(head: NeuralHead, *observations: Observation, settings: FitConfig = SETTINGS) -> FitResult:
    return fit_heads(head, [observations], settings, generator=torch.Generator().manual_seed(0))[0]


def bad_start() -> Similarity:
    """The true pose turned by 30 degrees, moved by 50 mm and 1.3 times too large."""
    axis = np.array([[0.6, 0.64, -0.48]])
    turn = Similarity(1.3, rotation_matrices(np.radians(30.0) * axis)[0], np.zeros(3))
    middle = TURNED.translation
    there, back = Similarity(1.0, np.eye(3), middle + [30.0, -24.0, 32.0]), Similarity(1.0, np.eye(3), -middle)
    return (there @ turn @ back @ TURNED).inverse()


@pytest.mark.slow
def test_half_a_head_in_any_pose_leads_back_to_the_whole(head) -> None:
    result = fit_one(head, observe(head, T_canonical_observed=None))
    assert result.residual_mm[0] < 0.1
    assert error_mm(head, result) < 1.0
    assert result.converged_share[0] > 0.99


@pytest.mark.slow
def test_a_bad_start_ends_where_the_true_pose_does(head) -> None:
    from_truth = error_mm(head, fit_one(head, observe(head)))
    from_far = error_mm(head, fit_one(head, observe(head, T_canonical_observed=bad_start())))
    assert from_far < 1.1 * from_truth + 0.01


def test_several_expressions_share_one_identity(head) -> None:
    other = Similarity(TURNED.scale, rotation_matrices(np.array([[-0.3, 0.2, 0.1]]))[0], np.array([5.0, 6.0, 7.0]))
    result = fit_one(head, observe(head), observe(head, 1, other))
    assert result.expression_codes.shape == (2, 2)
    assert error_mm(head, result) < 1.0
    assert error_mm(head, result, 1, other, scan=1) < 1.0


@pytest.mark.slow
def test_subjects_fitted_together_do_not_disturb_each_other(head) -> None:
    problems = [(observe(head), observe(head, 1)), (observe(head, n=300),)]
    results = fit_heads(head, problems, SETTINGS, generator=torch.Generator().manual_seed(0))
    assert [len(result.T_canonical_observed) for result in results] == [2, 1]
    assert error_mm(head, results[0]) < 1.0
    assert error_mm(head, results[1]) < 1.5


def test_a_known_unit_keeps_the_size(head) -> None:
    in_mm = Similarity(MM_PER_CANONICAL_UNIT, TURNED.rotation, TURNED.translation)
    result = fit_one(head, observe(head, 0, in_mm, mm_per_unit=1.0))
    assert result.T_canonical_observed[0].scale * MM_PER_CANONICAL_UNIT == pytest.approx(1.0, rel=0.01)
    assert error_mm(head, result, 0, in_mm) < 1.0


def test_outliers_and_noise_do_little_harm(head) -> None:
    seen = observe(head, noise_mm=0.5)
    seen.points[:60] += 80.0 * np.random.default_rng(0).standard_normal((60, 3))
    result = fit_one(head, seen)
    assert error_mm(head, result) < 1.5


def test_points_without_normals_will_do(head) -> None:
    seen = observe(head)
    result = fit_one(head, Observation(seen.points, T_canonical_observed=TURNED.inverse()))
    assert error_mm(head, result) < 1.5


@pytest.mark.slow
def test_anchors_give_the_pose_where_points_cannot(head) -> None:
    anchors = head.identity.anchors(IDENTITY)
    anchors = anchors + head.expression.deformation(anchors, head.condition(IDENTITY), EXPRESSIONS[:1])
    seen = TURNED.apply(anchors[0].double().numpy())
    seen[20:] = np.nan
    result = fit_one(head, observe(head, anchors=seen, T_canonical_observed=None))
    assert error_mm(head, result) < 1.0


def test_a_model_without_expressions_is_fitted_too() -> None:
    still = blob_head(with_expression=False)
    result = fit_one(still, observe(still))
    assert result.expression_codes.shape == (1, 0)
    assert error_mm(still, result) < 1.0


def test_the_same_generator_gives_the_same_fit(head) -> None:
    first, second = (fit_one(head, observe(head)) for _ in range(2))
    assert np.array_equal(first.identity_code, second.identity_code)


def test_many_scans_are_fitted_in_parts_that_keep_their_order(monkeypatch) -> None:
    monkeypatch.setattr("nphm_core.fitting.fit._MAX_SCANS", 3)
    problems = [(Observation(np.full((60, 3), float(k))),) * n for k, n in enumerate((1, 2, 2, 4, 1))]
    parts = _batches(problems)
    assert [[len(scans) for scans in part] for part in parts] == [[1, 2], [2], [4], [1]]
    assert [scans[0].points[0, 0] for part in parts for scans in part] == [0, 1, 2, 3, 4]


def test_weights_keep_their_gradients_and_their_values(head) -> None:
    flags = [p.requires_grad for p in head.parameters()]
    fit_one(head, observe(head, n=100))
    assert flags == [p.requires_grad for p in head.parameters()]


def test_hardly_any_points_are_refused(head) -> None:
    with pytest.raises(FittingError, match="12 usable points; expected at least 50"):
        fit_one(head, observe(head, n=12))
