"""Closed scans keep the scan's vertices, tell fills from measurements, and sign distances near the scan right."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.quality import measure_quality
from nphm_core.registration.watertight import (
    ClosedScan,
    check_surface,
    choose_fills,
    closed_by_filling,
    closed_by_poisson,
    is_closed,
    open_scan,
    sign_error,
    warnings_of,
)

_spec = importlib.util.spec_from_file_location("io_shapes", Path(__file__).parents[1] / "io/shapes.py")
shapes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shapes)


def fan(mesh: Mesh, apex: np.ndarray) -> Mesh:
    """Close the one hole of a mesh by a fan to a new vertex."""
    faces = mesh.faces
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    edges = set(zip(start.tolist(), end.tolist(), strict=True))
    rim = [(b, a) for a, b in edges if (b, a) not in edges]
    new = [[a, b, mesh.n_vertices] for a, b in sorted(rim)]
    return Mesh(np.concatenate([mesh.vertices, apex[None]]), np.concatenate([faces, new]))


def flat_lid(mesh: Mesh) -> Mesh:
    """Close the one hole of a bowl by triangles between its own rim vertices."""
    fanned = fan(mesh, np.zeros(3))
    lid = fanned.faces[mesh.n_faces :]
    apex = lid[0, 0]
    return Mesh(mesh.vertices, np.concatenate([mesh.faces, [[a, b, apex] for a, b, _ in lid if apex not in (a, b)]]))


BOWL = shapes.open_sphere(24, radius=100.0)


def test_fills_are_told_from_the_scan_whatever_the_repair_did_to_the_order():
    repaired = flat_lid(BOWL)
    rng = np.random.default_rng(0)
    used = np.unique(repaired.faces)
    shuffled = rng.permutation(used)
    place = np.full(BOWL.n_vertices, -1)
    place[shuffled] = np.arange(len(shuffled))
    faces = rng.permutation(place[repaired.faces])
    faces = np.array([np.roll(face, rng.integers(3)) for face in faces])
    closed = closed_by_filling(BOWL.vertices, BOWL.faces, Mesh(BOWL.vertices[shuffled], faces))
    np.testing.assert_array_equal(closed.vertices, BOWL.vertices)
    assert closed.n_scan_faces == BOWL.n_faces
    assert measure_quality(closed.vertices, closed.faces).is_watertight
    own = {tuple(sorted(face)) for face in BOWL.faces.tolist()}
    assert {tuple(sorted(face)) for face in closed.faces[: BOWL.n_faces].tolist()} == own


def test_vertices_that_a_repair_splits_stay_split():
    # Two bowls that touch in one vertex: manifold only when it is there twice.
    first = flat_lid(BOWL)
    top = BOWL.vertices[0]
    second = Mesh(2 * top - first.vertices, first.faces[:, ::-1])
    scan_faces = second.faces[: BOWL.n_faces] + BOWL.n_vertices
    scan_faces[scan_faces == BOWL.n_vertices] = 0
    vertices = np.concatenate([first.vertices, second.vertices])
    faces = np.concatenate([BOWL.faces, scan_faces])
    repaired = Mesh(vertices, np.concatenate([first.faces, second.faces + BOWL.n_vertices]))
    # The mirrored bowl's triangles were turned over by the point reflection and back by the reversal.
    closed = closed_by_filling(vertices, faces, repaired)
    assert closed.n_scan_faces == len(faces)
    assert len(closed.vertices) == len(vertices) + 1
    quality = measure_quality(closed.vertices, closed.faces)
    assert quality.is_watertight
    assert quality.n_nonmanifold_vertices == 0


def test_a_repair_that_only_adds_triangles_keeps_their_order():
    used = np.unique(BOWL.faces)
    place = np.full(BOWL.n_vertices, -1)
    place[used] = np.arange(len(used))
    repaired = Mesh(BOWL.vertices[used], place[flat_lid(BOWL).faces])
    closed = closed_by_filling(BOWL.vertices, BOWL.faces, repaired)
    np.testing.assert_array_equal(closed.faces, flat_lid(BOWL).faces)
    assert is_closed(closed.faces)
    assert not is_closed(BOWL.faces)
    assert not is_closed(np.concatenate([closed.faces, closed.faces[:, ::-1]]))


def test_repairs_that_do_not_fit_are_refused():
    moved = flat_lid(BOWL)
    assert closed_by_filling(BOWL.vertices, BOWL.faces, moved.with_vertices(moved.vertices + 0.01)) is None
    few = Mesh(BOWL.vertices, flat_lid(BOWL).faces[BOWL.n_faces // 2 :])
    assert closed_by_filling(BOWL.vertices, BOWL.faces, few) is None
    turned = BOWL.faces[:, ::-1]
    inside_out = Mesh(BOWL.vertices, flat_lid(BOWL).faces[:, ::-1])
    assert closed_by_filling(BOWL.vertices, turned, inside_out) is None
    nothing = Mesh(np.empty((0, 3)), np.empty((0, 3), np.int64))
    assert closed_by_filling(BOWL.vertices, BOWL.faces, nothing) is None


def test_a_good_fill_is_kept_and_a_bad_one_is_not():
    good = fan(BOWL, np.array([0.0, -60.0, 0.0]))
    kept = choose_fills(ClosedScan(good.vertices, good.faces, BOWL.n_faces, "holes filled"))
    assert kept.method == "holes filled"
    assert kept.sign_error == 0.0
    # A lid that was pulled over the bowl's outside calls the outside inside.
    bad = fan(BOWL, np.array([0.0, 500.0, 0.0]))
    wrong = ClosedScan(bad.vertices, bad.faces, BOWL.n_faces, "holes filled")
    assert sign_error(wrong) > 0.1
    chosen = choose_fills(wrong)
    assert chosen.method == "open"
    assert chosen.sign_error < 0.01
    np.testing.assert_array_equal(chosen.faces, BOWL.faces)


def test_small_fills_stay_where_a_large_one_goes_astray():
    hole = np.arange(6)
    holed = Mesh(BOWL.vertices, BOWL.faces[~np.isin(np.arange(BOWL.n_faces), hole)])
    bad = fan(BOWL, np.array([0.0, 500.0, 0.0]))
    faces = np.concatenate([holed.faces, BOWL.faces[hole], bad.faces[BOWL.n_faces :]])
    chosen = choose_fills(ClosedScan(bad.vertices, faces, holed.n_faces, "holes filled"))
    assert chosen.method == "small holes filled"
    assert len(chosen.faces) == BOWL.n_faces


def test_a_surface_through_points_is_parted_by_their_distance():
    mesh = shapes.sphere(40, radius=100.0)
    points = mesh.vertices[mesh.vertices[:, 1] > -50]
    closed = closed_by_poisson(points, mesh, max_fill_spacings=3.0)
    height = mesh.vertices[closed.faces][:, :, 1]
    assert (height[: closed.n_scan_faces] > -80).all()
    assert (height[closed.n_scan_faces :].min(axis=1) < -50).all()
    inside_out = Mesh(mesh.vertices, mesh.faces[:, ::-1])
    assert closed_by_poisson(points, inside_out, max_fill_spacings=3.0) is None


def test_checks_count_what_is_wrong():
    sphere = shapes.sphere(12, radius=100.0)
    check = check_surface(sphere.vertices, sphere.faces)
    assert check.to_json()["is_watertight"]
    assert check.to_json()["signed_volume"] == pytest.approx(4 / 3 * np.pi * 100**3, rel=0.05)
    bowl = check_surface(BOWL.vertices, BOWL.faces)
    assert bowl.quality.n_boundary_loops == 1
    assert bowl.to_json()["signed_volume"] is None
    template = measure_quality(sphere.vertices, sphere.faces)
    assert warnings_of(open_scan(BOWL.vertices, BOWL.faces), check, template) == []
    assert "1 boundary loops" in warnings_of(open_scan(BOWL.vertices, BOWL.faces), bowl, template)[0]


def test_a_point_cloud_has_no_sign():
    cloud = open_scan(BOWL.vertices, np.empty((0, 3), np.int64))
    assert cloud.method == "open"
    assert cloud.n_scan_faces == 0
