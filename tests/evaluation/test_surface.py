"""Measures of registered meshes with known errors."""

import json

import numpy as np
import pytest

from nphm_core.config import EvaluateConfig
from nphm_core.evaluation.surface import distance_summary, measure_surface
from nphm_core.geometry.mesh import Mesh


def _measure(scan, registered, *, weight=None, rest=None, regions=None):
    n = registered.n_vertices
    return measure_surface(
        scan,
        registered,
        registered.vertices if rest is None else rest,
        np.ones(n) if weight is None else weight,
        regions or {"face": registered.vertices[:, 2] > 20},
        EvaluateConfig(),
        rng=np.random.default_rng(0),
    )


def test_a_mesh_on_its_scan_has_no_error(ball):
    metrics, errors = _measure(ball, ball)
    face = metrics.regions["face"]
    assert face.distance.max_mm < 1e-9
    assert face.matched_share == 1
    assert face.unseen_share == 0
    assert metrics.scan_to_face.max_mm < 1e-6
    assert metrics.covered_share == 1
    assert metrics.folded_faces == 0
    assert errors.is_measured.all()


def test_a_known_offset_is_measured_from_both_sides(ball, coarse_ball):
    metrics, _ = _measure(ball, coarse_ball.with_vertices(coarse_ball.vertices * 80.25 / 80))
    assert metrics.regions["face"].distance.median_mm == pytest.approx(0.25, abs=0.01)
    # The coarse triangles sag by 0.4 mm between their vertices.
    assert metrics.scan_to_face.median_mm < 0.25


def test_a_rigid_motion_of_both_changes_nothing(ball, coarse_ball):
    regions = {"face": coarse_ball.vertices[:, 2] > 20}
    bumpy = coarse_ball.vertices * (1 + 0.004 * np.sin(coarse_ball.vertices[:, :1] / 9))
    rotation = np.linalg.qr(np.random.default_rng(4).standard_normal((3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    before, _ = _measure(ball, coarse_ball.with_vertices(bumpy), regions=regions)
    turned = ball.with_vertices(ball.vertices @ rotation.T + 300)
    after, _ = _measure(turned, coarse_ball.with_vertices(bumpy @ rotation.T + 300), regions=regions)
    for key in ("median_mm", "p95_mm", "max_mm"):
        old, new = (getattr(m.regions["face"].distance, key) for m in (before, after))
        assert new == pytest.approx(old, abs=1e-9)


def test_vertices_that_follow_the_prior_count_as_unseen_and_not_as_error(ball):
    lifted = ball.vertices.copy()
    left = (lifted[:, 0] > 0) & (lifted[:, 2] > 20)
    lifted[left] *= 82 / 80
    weight = np.where(left, 0.0, 1.0)
    metrics, errors = _measure(ball, ball.with_vertices(lifted), weight=weight)
    face = metrics.regions["face"]
    assert face.distance.p95_mm < 1e-9
    assert face.unseen_share == pytest.approx(0.5, abs=0.02)
    assert face.matched_share == pytest.approx(0.5, abs=0.02)
    # What the weights hide is still seen here.
    assert face.near_scan.p90_mm == pytest.approx(2.0, abs=0.05)
    assert metrics.covered_share < 0.6
    assert not errors.is_measured[left].any()


def test_a_hole_in_the_scan_is_unseen(ball):
    open_ball = Mesh(ball.vertices, ball.faces[(ball.vertices[ball.faces][:, :, 2] < 60).all(1)])
    metrics, _ = _measure(open_ball, ball)
    high = (ball.vertices[:, 2] > 60).sum() / (ball.vertices[:, 2] > 20).sum()
    assert metrics.regions["face"].unseen_share == pytest.approx(high, abs=0.03)
    assert metrics.regions["face"].distance.max_mm < 1e-6


def test_a_vertex_pushed_through_its_neighbours_folds_their_triangles(coarse_ball):
    vertices = coarse_ball.vertices.copy()
    top = int(np.argmin(np.linalg.norm(vertices - [40, 20, 66], axis=1)))
    ring = coarse_ball.faces[(coarse_ball.faces == top).any(1)]
    vertices[top] += 3.0 * (vertices[np.setdiff1d(ring, top)[0]] - vertices[top])
    metrics, errors = _measure(
        coarse_ball,
        coarse_ball.with_vertices(vertices),
        rest=coarse_ball.vertices,
        regions={"face": coarse_ball.vertices[:, 2] > 20},
    )
    assert metrics.folded_faces >= 2
    assert set(np.flatnonzero(errors.is_folded)) <= set(np.flatnonzero((coarse_ball.faces == top).any(1)))


def test_folds_of_the_template_itself_do_not_count(coarse_ball):
    vertices = coarse_ball.vertices.copy()
    top = int(np.argmin(np.linalg.norm(vertices - [40, 20, 66], axis=1)))
    other = np.setdiff1d(coarse_ball.faces[(coarse_ball.faces == top).any(1)], top)[0]
    vertices[top] += 3.0 * (vertices[other] - vertices[top])
    metrics, _ = _measure(coarse_ball, coarse_ball.with_vertices(vertices))
    assert metrics.folded_faces == 0


def test_no_vertex_measured_gives_no_numbers(ball):
    metrics, _ = _measure(ball, ball, weight=np.zeros(ball.n_vertices))
    assert metrics.regions["face"].distance == distance_summary(np.zeros(0))
    assert json.loads(json.dumps(metrics.to_json()))["regions"]["face"]["distance"]["median_mm"] is None


def test_regions_without_vertices_are_left_out(ball):
    regions = {"face": ball.vertices[:, 2] > 0, "ears": np.zeros(ball.n_vertices, bool)}
    assert list(_measure(ball, ball, regions=regions)[0].regions) == ["face"]
