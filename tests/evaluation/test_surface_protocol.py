"""Surfaces whose distance is known everywhere."""

import numpy as np
import pytest

from nphm_core.config import EvaluateModelConfig
from nphm_core.evaluation.head_regions import HeadRegions
from nphm_core.evaluation.point_metrics import OrientedPoints
from nphm_core.evaluation.smooth_surface import SmoothSurface
from nphm_core.evaluation.surface_protocol import is_seen, measure_surfaces
from nphm_core.evaluation.view_protocol import view_cameras
from nphm_core.geometry.mesh import Mesh
from nphm_core.spaces import Similarity
from nphm_core.supervision.samples import Plane

SETTINGS = EvaluateModelConfig(n_points=20_000)


@pytest.fixture
def regions(ball) -> HeadRegions:
    cap = ball.vertices[::7][ball.vertices[::7, 2] > 50]
    throat = Plane(np.array([0.0, -30, 0]), np.array([0.0, 1, 0]))
    return HeadRegions(throat, cap, cap / 80, Similarity(1 / 250, np.eye(3), np.zeros(3)))


def measure(predicted: Mesh, truth: Mesh, regions: HeadRegions, seed: int = 0, settings=SETTINGS):
    rng = np.random.default_rng(seed)
    return measure_surfaces(SmoothSurface(predicted), SmoothSurface(truth), regions, settings, rng=rng)


def with_core(ball: Mesh) -> Mesh:
    """A smaller ball within the ball."""
    faces = np.concatenate([ball.faces, ball.faces + ball.n_vertices])
    return Mesh(np.concatenate([ball.vertices, 0.5 * ball.vertices]), faces)


def test_a_larger_ball_is_as_far_as_it_is_larger(ball, regions):
    found = measure(Mesh(82 / 80 * ball.vertices, ball.faces), ball, regions)
    for metrics in found.values():
        assert metrics.chamfer_l1_mm == pytest.approx(2.0, abs=0.02)
        assert metrics.chamfer_l2_mm2 == pytest.approx(4.0, abs=0.05)
        assert metrics.normal_consistency == pytest.approx(1.0, abs=1e-3)
        assert metrics.f_scores == {1.0: 0.0, 5.0: 1.0}


def test_a_perfect_prediction_has_no_error_at_all(ball, regions):
    found = measure(ball, ball, regions)
    assert found["head"].chamfer_l1_mm < 1e-6
    assert found["face"].normal_consistency == pytest.approx(1.0)


def test_the_same_surface_in_other_triangles_is_the_same(ball, coarse_ball, regions):
    # Triangles of edge a lie a^2 / (8 * 80 mm) below the sphere on the mean; 2,048 of them have a^2 = 91 mm2.
    assert measure(coarse_ball, ball, regions)["head"].chamfer_l1_mm == pytest.approx(0.142, abs=0.005)


def test_both_ways_change_places_with_the_meshes(ball, regions):
    larger = Mesh(ball.vertices * [1, 1, 1.05], ball.faces)
    there, back = measure(larger, ball, regions)["head"], measure(ball, larger, regions, seed=1)["head"]
    assert there.accuracy_mm == pytest.approx(back.completeness_mm, rel=0.02)
    assert there.chamfer_l1_mm == pytest.approx(back.chamfer_l1_mm, rel=0.02)


def test_a_rigid_motion_of_everything_changes_nothing(ball, regions):
    turn = Similarity(1.0, np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), np.array([40.0, 5, -300]))
    moved = HeadRegions(
        Plane(turn.apply(regions.throat.origin[None])[0], turn.apply_directions(regions.throat.normal[None])[0]),
        turn.apply(regions.face_points),
        turn.apply_directions(regions.face_normals),
        regions.T_canonical_metric @ turn.inverse(),
    )
    dented = Mesh(ball.vertices * [1, 1, 1.03], ball.faces)
    here = measure(dented, ball, regions)
    there = measure(
        dented.with_vertices(turn.apply(dented.vertices)), ball.with_vertices(turn.apply(ball.vertices)), moved
    )
    for name in ("head", "face"):
        assert there[name].columns() == pytest.approx(here[name].columns(), abs=2e-3)


def test_a_large_error_is_still_face(ball, regions):
    # Farther than the 10 mm at which `released_views` stops to look.
    found = measure(Mesh(ball.vertices + [0, 0, 30.0], ball.faces), ball, regions)["face"]
    assert found.accuracy_mm > 15
    assert found.n_predicted > 1000


def test_what_lies_over_a_hole_of_the_truth_is_left_out(ball, regions):
    hole = (ball.vertices[ball.faces][:, :, 0] < 50).all(1)
    found = measure(ball, Mesh(ball.vertices, ball.faces[hole]), regions)["head"]
    assert found.accuracy_mm < 1e-3
    assert found.n_predicted < 0.9 * 20_000
    # The other way round the missing part of a prediction is an error.
    missing = measure(Mesh(ball.vertices, ball.faces[hole]), ball, regions)["head"]
    assert missing.completeness_mm > 1


def test_nothing_below_the_throat_counts(ball, regions):
    lower = ball.vertices.copy()
    lower[lower[:, 1] < -45] += [0, -50, 0]
    assert measure(Mesh(lower, ball.faces), ball, regions)["head"].accuracy_mm < 1e-6


def test_a_prediction_below_the_throat_has_no_numbers(ball, regions):
    found = measure(Mesh(ball.vertices - [0, 200.0, 0], ball.faces), ball, regions)
    assert found["head"].chamfer_l1_mm is None
    assert found["head"].n_predicted == 0
    assert found["face"].f_scores[5.0] == 0.0


def test_what_nobody_sees_counts_only_on_request(ball, regions):
    assert measure(with_core(ball), ball, regions)["head"].accuracy_mm < 1e-6
    counted = measure(with_core(ball), ball, regions, settings=SETTINGS.model_copy(update={"keep_hidden": True}))
    # A fifth of the area, 40 mm below the surface.
    assert counted["head"].accuracy_mm == pytest.approx(40 * share_of_core(ball), rel=0.05)


def share_of_core(ball: Mesh) -> float:
    """The zone above y = -30 mm of a sphere of radius r has the area 2 pi r (r + 30 mm)."""
    outer, core = 80 * 110, 40 * 70
    return core / (outer + core)


def test_seen_is_what_faces_a_camera_with_nothing_between(ball):
    cameras = view_cameras(Similarity(1 / 250, np.eye(3), np.zeros(3)), EvaluateModelConfig(n_views=1))
    normals = ball.vertices[::50] / 80
    points = OrientedPoints(80 * normals, normals)
    cosine = normals @ (cameras[0].position / 600)
    # From 600 mm away the horizon of a ball of 80 mm lies at this cosine.
    clear = np.abs(cosine - 80 / 600) > 0.02
    assert np.array_equal(is_seen(SmoothSurface(ball), points, cameras)[clear], (cosine > 80 / 600)[clear])
    core = OrientedPoints(40 * normals, normals)
    assert not is_seen(SmoothSurface(with_core(ball)), core, cameras).any()
    assert is_seen(SmoothSurface(ball), OrientedPoints(np.zeros((0, 3)), np.zeros((0, 3))), cameras).shape == (0,)
