"""Point sets with known distances, and a plain twin."""

import numpy as np
import pytest

from nphm_core.evaluation.point_metrics import OrientedPoints, point_metrics
from nphm_core.spaces import Similarity


def sphere(n: int, radius: float, seed: int = 0) -> OrientedPoints:
    normal = np.random.default_rng(seed).standard_normal((n, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return OrientedPoints(radius * normal, normal)


def grid(height: float, shift: float = 0.0) -> OrientedPoints:
    """A plane patch with a point each 0.5 mm."""
    x, y = np.meshgrid(np.arange(0, 20, 0.5) + shift, np.arange(0, 20, 0.5))
    position = np.stack([x.ravel(), y.ravel(), np.full(x.size, height)], axis=1)
    return OrientedPoints(position, np.tile([0.0, 0.0, 1.0], (len(position), 1)))


def rotation(seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def blob(seed: int, n: int = 300) -> OrientedPoints:
    points = sphere(n, 40.0, seed)
    return OrientedPoints(points.position + np.random.default_rng(seed).normal(0, 2, (n, 3)), points.normal)


def twin(predicted: OrientedPoints, truth: OrientedPoints, limit: float) -> dict[str, float]:
    """METHOD 8.1, step 6, in plain lines over all pairs."""
    gap = np.linalg.norm(predicted.position[:, None] - truth.position[None], axis=2)
    acc, comp = gap.min(1), gap.min(0)
    nc_there = np.abs((predicted.normal * truth.normal[gap.argmin(1)]).sum(1)).mean()
    nc_back = np.abs((truth.normal * predicted.normal[gap.argmin(0)]).sum(1)).mean()
    precision, recall = (acc <= limit).mean(), (comp <= limit).mean()
    return {
        "chamfer_l1_mm": 0.5 * (acc.mean() + comp.mean()),
        "chamfer_l2_mm2": 0.5 * ((acc**2).mean() + (comp**2).mean()),
        "normal_consistency": 0.5 * (nc_there + nc_back),
        "accuracy_mm": acc.mean(),
        "completeness_mm": comp.mean(),
        "accuracy_median_mm": np.median(acc),
        "completeness_median_mm": np.median(comp),
        f"f_score_{limit:g}mm": 2 * precision * recall / (precision + recall),
    }


def test_the_metrics_agree_with_all_pairs():
    predicted, truth = blob(1), blob(2, 250)
    found = point_metrics(predicted, truth, thresholds_mm=(3.0,)).columns()
    assert found == pytest.approx(twin(predicted, truth, 3.0), abs=1e-9)


def test_parallel_patches_are_their_distance_apart():
    found = point_metrics(grid(0.7), grid(0.0))
    assert found.chamfer_l1_mm == pytest.approx(0.7)
    assert found.chamfer_l2_mm2 == pytest.approx(0.49)
    assert found.normal_consistency == pytest.approx(1.0)
    assert found.f_scores == {1.0: 1.0, 5.0: 1.0}


def test_a_copy_moved_by_half_a_step_is_half_a_step_away():
    found = point_metrics(grid(0.0, 0.25), grid(0.0))
    assert found.accuracy_mm == pytest.approx(0.25)
    assert found.completeness_median_mm == pytest.approx(0.25)


def test_an_f_score_between_is_the_harmonic_mean():
    far = grid(0.0)
    far = OrientedPoints(far.position + [0, 0, 3.0], far.normal)
    both = OrientedPoints(
        np.concatenate([grid(0.0).position, far.position]), np.concatenate([grid(0.0).normal, far.normal])
    )
    found = point_metrics(both, grid(0.0))
    # Half of the prediction is right, and all of the truth is found.
    assert found.f_scores[1.0] == pytest.approx(2 * 0.5 * 1.0 / 1.5)
    assert found.f_scores[5.0] == 1.0


def test_spheres_two_mm_apart_are_two_mm_apart():
    found = point_metrics(sphere(40_000, 82.0, 1), sphere(40_000, 80.0, 2))
    # With 0.5 points a square mm the nearest lies 0.8 mm aside (root mean square): sqrt(2^2 + 0.8^2) is 2.15.
    assert found.chamfer_l1_mm == pytest.approx(2.15, abs=0.02)
    assert found.f_scores == {1.0: 0.0, 5.0: 1.0}
    assert found.normal_consistency > 0.9999


def test_chamfer_is_symmetric():
    one, other = point_metrics(blob(1), blob(2)), point_metrics(blob(2), blob(1))
    assert one.chamfer_l1_mm == pytest.approx(other.chamfer_l1_mm)
    assert one.chamfer_l2_mm2 == pytest.approx(other.chamfer_l2_mm2)
    assert one.normal_consistency == pytest.approx(other.normal_consistency)
    assert one.accuracy_mm == pytest.approx(other.completeness_mm)
    assert one.f_scores == pytest.approx(other.f_scores)


@pytest.mark.parametrize("seed", [3, 4])
def test_a_rigid_motion_of_both_changes_nothing(seed):
    motion = Similarity(1.0, rotation(seed), np.array([30.0, -5.0, 200.0]))
    moved = [OrientedPoints(motion.apply(p.position), motion.apply_directions(p.normal)) for p in (blob(1), blob(2))]
    assert point_metrics(*moved).columns() == pytest.approx(point_metrics(blob(1), blob(2)).columns(), abs=1e-9)


def test_a_set_against_itself_is_perfect():
    found = point_metrics(blob(1), blob(1))
    assert found.chamfer_l1_mm == found.chamfer_l2_mm2 == 0.0
    assert found.normal_consistency == pytest.approx(1.0)
    assert found.f_scores[1.0] == 1.0


def test_turned_normals_count_as_equal():
    turned = OrientedPoints(blob(1).position, -blob(1).normal)
    assert point_metrics(turned, blob(1)).normal_consistency == pytest.approx(1.0)


@pytest.mark.parametrize("empty", ["predicted", "truth", "both"])
def test_nothing_to_compare_gives_no_number_and_no_match(empty):
    nothing = OrientedPoints(np.zeros((0, 3)), np.zeros((0, 3)))
    found = point_metrics(blob(1) if empty == "truth" else nothing, blob(2) if empty == "predicted" else nothing)
    assert found.is_empty
    assert found.chamfer_l1_mm is found.normal_consistency is found.accuracy_median_mm is None
    assert found.f_scores == {1.0: 0.0, 5.0: 0.0}
    assert (found.n_predicted, found.n_truth) == (300 * (empty == "truth"), 300 * (empty == "predicted"))
