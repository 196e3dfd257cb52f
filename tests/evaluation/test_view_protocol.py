"""What ten cameras see of a ball, pixel by pixel."""

import numpy as np
import pytest

from nphm_core.config import EvaluateModelConfig
from nphm_core.evaluation.head_regions import HeadRegions
from nphm_core.evaluation.smooth_surface import SmoothSurface
from nphm_core.evaluation.view_protocol import fibonacci_directions, measure_views, sample_views, see, view_cameras
from nphm_core.geometry.mesh import Mesh
from nphm_core.spaces import Similarity
from nphm_core.supervision.samples import Plane

CENTRE = np.array([10.0, -20.0, 35.0])


@pytest.fixture
def surface(ball) -> SmoothSurface:
    return SmoothSurface(Mesh(ball.vertices + CENTRE, ball.faces))


@pytest.fixture
def regions(ball) -> HeadRegions:
    """The face is the cap with z > 50 mm, the throat is at y = -30 mm; canonical space is turned and moved."""
    cap = ball.vertices[::7][ball.vertices[::7, 2] > 50]
    turn = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    T_canonical_metric = Similarity(1 / 240, turn, -turn @ CENTRE / 240)
    throat = Plane(CENTRE + [0, -30, 0], np.array([0.0, 1, 0]))
    return HeadRegions(throat, cap + CENTRE, cap / 80, T_canonical_metric)


def test_ten_cameras_stand_off_the_origin_and_look_at_it(regions):
    cameras = view_cameras(regions.T_canonical_metric, EvaluateModelConfig())
    assert len(cameras) == 10
    for camera, direction in zip(cameras, fibonacci_directions(12)[1:-1], strict=True):
        at = regions.T_canonical_metric.apply(camera.position[None])[0]
        assert np.allclose(at, 2.4 * direction)
        # 0.6 m of a FLAME head that is 240/250 of its size.
        assert np.linalg.norm(camera.position - CENTRE) == pytest.approx(600 * 240 / 250)
        assert np.allclose(camera.project(CENTRE[None]), [[480, 640]])
        assert (camera.focal_px, camera.width, camera.height) == (2440, 960, 1280)


def test_the_cameras_are_spread_over_the_sphere():
    directions = fibonacci_directions(12)
    assert np.allclose(np.linalg.norm(directions, axis=1), 1)
    assert np.allclose(directions[[0, -1]], [[0, 1, 0], [0, -1, 0]])
    gap = np.linalg.norm(directions[:, None] - directions, axis=2) + 2 * np.eye(12)
    assert gap.min() > 0.6


def test_sampled_points_are_those_of_whole_pictures(surface, regions):
    """The slow twin: every pixel of every picture, the tests of METHOD 8.1, and a uniform choice."""
    settings = EvaluateModelConfig(n_points=40_000, view_height=64, n_views=4)
    scale = regions.T_canonical_metric.scale
    seen = [see(surface, c, c.pixel_centres(), scale)[0] for c in view_cameras(regions.T_canonical_metric, settings)]
    points = np.concatenate([part.position for part in seen])
    drawn = sample_views(surface, regions, settings, rng=np.random.default_rng(0))
    for name, passes in (("head", regions.in_head), ("face", regions.in_face)):
        possible = points[passes(points)]
        places, index = np.unique(np.round(possible, 6), axis=0, return_inverse=True)
        found, count = np.unique(np.round(drawn[name].position, 6), axis=0, return_counts=True)
        assert {tuple(p) for p in found} <= {tuple(p) for p in places}
        expected = 40_000 / len(possible) * np.bincount(index.ravel())
        at = {tuple(p): c for p, c in zip(found, count, strict=True)}
        deviation = np.array([at.get(tuple(p), 0) for p in places]) - expected
        # Pearson's statistic is as large as its degrees of freedom, give or take its standard deviation.
        chi_sq, freedom = (deviation**2 / expected).sum(), len(places) - 1
        assert abs(chi_sq - freedom) < 5 * np.sqrt(2 * freedom)


def test_regions_end_where_they_should(surface, regions):
    drawn = sample_views(surface, regions, EvaluateModelConfig(n_points=5000), rng=np.random.default_rng(1))
    head, face = drawn["head"].position - CENTRE, drawn["face"].position - CENTRE
    assert head[:, 1].min() > -30
    assert head[:, 2].min() < -79
    assert face[:, 1].min() > -30
    assert 38 < face[:, 2].min() < 50
    assert np.allclose(drawn["head"].normal, head / 80, atol=0.01)


def test_what_is_inside_is_not_seen(ball, surface, regions):
    inner = Mesh(
        np.concatenate([surface.vertices, 0.5 * ball.vertices + CENTRE]),
        np.concatenate([surface.faces, ball.faces + ball.n_vertices]),
    )
    drawn = sample_views(
        SmoothSurface(inner), regions, EvaluateModelConfig(n_points=3000), rng=np.random.default_rng(1)
    )
    assert np.linalg.norm(drawn["head"].position - CENTRE, axis=1).min() > 79


def test_the_inside_of_an_open_surface_is_not_seen(surface, regions):
    back = Mesh(surface.vertices, surface.faces[(surface.vertices[surface.faces] - CENTRE)[:, :, 2].max(1) < 0])
    drawn = sample_views(SmoothSurface(back), regions, EvaluateModelConfig(n_points=1000), rng=np.random.default_rng(1))
    cameras = view_cameras(regions.T_canonical_metric, EvaluateModelConfig())
    facing = np.max([((c.position - drawn["head"].position) * drawn["head"].normal).sum(1) for c in cameras], axis=0)
    assert facing.min() > 0
    assert len(drawn["head"]) == 1000
    assert len(drawn["face"]) == 0


def test_a_small_rest_is_drawn_again(surface, regions):
    speck = surface.faces[(surface.vertices[surface.faces] - CENTRE)[:, :, 2].min(1) > 79.8]
    mesh = Mesh(surface.vertices, speck)
    drawn = sample_views(SmoothSurface(mesh), regions, EvaluateModelConfig(n_points=2000), rng=np.random.default_rng(1))
    assert len(drawn["face"]) == 2000
    assert (drawn["face"].position[:, 2] - CENTRE[2]).min() > 79.7


def test_a_larger_ball_is_as_far_as_it_is_larger(ball, surface, regions):
    settings = EvaluateModelConfig(n_points=20_000)
    larger = SmoothSurface(Mesh(82 / 80 * ball.vertices + CENTRE, ball.faces))
    found = measure_views(larger, surface, regions, settings, rng=np.random.default_rng(2))
    for metrics in found.values():
        # The spacing of 20,000 samples adds up to a tenth.
        assert 1.95 < metrics.accuracy_median_mm < 2.2
        assert 1.95 < metrics.chamfer_l1_mm < 2.25
        assert metrics.normal_consistency > 0.999
        assert metrics.f_scores[1.0] < 0.01


def test_no_prediction_leaves_the_truth_counted(surface, regions):
    settings = EvaluateModelConfig(n_points=1000)
    found = measure_views(None, surface, regions, settings, rng=np.random.default_rng(2))
    assert found["head"].n_truth == 1000
    assert found["head"].chamfer_l1_mm is None


def test_the_same_seed_gives_the_same_numbers(surface, regions):
    settings = EvaluateModelConfig(n_points=2000)
    first = measure_views(surface, surface, regions, settings, rng=np.random.default_rng(2))
    assert measure_views(surface, surface, regions, settings, rng=np.random.default_rng(2)) == first
    assert measure_views(surface, surface, regions, settings, rng=np.random.default_rng(3)) != first
