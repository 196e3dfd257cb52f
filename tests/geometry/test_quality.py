"""Mesh quality: known surfaces and their known defects."""

import numpy as np
import pytest

from nphm_core.geometry.quality import (
    boundary_loops,
    degenerate_faces,
    flipped_triangles,
    measure_quality,
    nonmanifold_vertices,
)


def test_a_cube_is_watertight_and_has_its_volume(cube):
    vertices, faces = cube(2.0)
    quality = measure_quality(vertices + 1e4, faces)
    assert quality.is_watertight
    assert quality.is_manifold
    assert (quality.euler_number, quality.n_components, quality.n_degenerate_faces) == (2, 1, 0)
    assert quality.signed_volume == pytest.approx(8.0)
    assert measure_quality(vertices, faces[:, ::-1]).signed_volume == pytest.approx(-8.0)


def test_a_sphere_keeps_its_counts_under_rigid_motion(sphere, random_rotation):
    vertices, faces = sphere(10.0, 40)
    rotation = random_rotation(np.random.default_rng(0))
    still, moved = measure_quality(vertices, faces), measure_quality(vertices @ rotation.T + 5, faces)
    assert still.is_watertight
    assert still.euler_number == 2
    assert moved.signed_volume == pytest.approx(still.signed_volume)
    assert moved.n_boundary_loops == still.n_boundary_loops == 0


def test_a_torus_has_euler_number_zero():
    n = 12
    i, j = (a.ravel() for a in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    u, v = 2 * np.pi * i / n, 2 * np.pi * j / n
    vertices = np.stack([(3 + np.cos(v)) * np.cos(u), (3 + np.cos(v)) * np.sin(u), np.sin(v)], axis=1)
    a, b = i * n + j, (i + 1) % n * n + j
    c, d = (i + 1) % n * n + (j + 1) % n, i * n + (j + 1) % n
    quality = measure_quality(vertices, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]))
    assert quality.is_watertight
    assert quality.euler_number == 0
    assert quality.signed_volume > 0


def test_a_hole_is_one_boundary_loop_and_no_volume_is_claimed(sphere):
    vertices, faces = sphere(1.0, 20)
    quality = measure_quality(vertices, faces[vertices[faces].mean(axis=1)[:, 2] < 0.8])
    assert not quality.is_watertight
    assert quality.is_manifold
    assert (quality.n_boundary_loops, quality.n_boundary_edges, quality.euler_number) == (1, 20, 1)
    assert np.isnan(quality.signed_volume)


def test_boundary_loops_run_along_the_triangles_and_longest_comes_first(plane):
    vertices, faces = plane(6)
    middle = vertices[faces].mean(axis=1)
    inner = (np.abs(middle[:, :2] - 3) < 1).all(axis=1)
    loops = boundary_loops(faces[~inner])
    assert [len(loop) for loop in loops] == [24, 8]

    def area(loop: np.ndarray) -> float:
        x, y = vertices[loop, 0], vertices[loop, 1]
        return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))

    # The outer rim counter-clockwise, the hole clockwise, seen from +z.
    assert [area(loop) for loop in loops] == [36.0, -4.0]


def test_two_holes_that_touch_at_a_vertex_are_two_loops(plane):
    vertices, faces = plane(6)
    middle = vertices[faces].mean(axis=1)[:, :2]
    hole = ((middle > 1) & (middle < 3)).all(axis=1) | ((middle > 3) & (middle < 5)).all(axis=1)
    quality = measure_quality(vertices, faces[~hole])
    assert quality.n_boundary_loops == 3
    assert quality.n_nonmanifold_vertices == 1
    assert quality.n_nonmanifold_edges == 0


def test_two_triangles_at_a_vertex_and_three_at_an_edge_are_not_manifold():
    bow_tie = np.array([[0, 1, 2], [0, 3, 4]])
    np.testing.assert_array_equal(nonmanifold_vertices(bow_tie, 5), [True, False, False, False, False])
    book = np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]])
    quality = measure_quality(vertices, book)
    assert quality.n_nonmanifold_edges == 1
    assert quality.n_nonmanifold_vertices == 0
    assert not quality.is_manifold


def test_disagreeing_triangles_unused_vertices_and_degenerate_faces_are_counted(cube):
    vertices, faces = cube(2.0)
    faces = faces.copy()
    faces[4] = faces[4, ::-1]
    quality = measure_quality(np.concatenate([vertices, [[0.0, 0, 0]]]), faces)
    assert quality.n_misoriented_edges == 3
    assert quality.n_unused_vertices == 1
    assert not quality.is_watertight
    line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1e-3, 0]])
    np.testing.assert_array_equal(degenerate_faces(line, np.array([[0, 1, 2], [0, 1, 1], [0, 1, 3]])), [1, 1, 0])


def test_nothing_is_not_watertight():
    quality = measure_quality(np.zeros((3, 3)), np.zeros((0, 3), np.int64))
    assert not quality.is_watertight
    assert (quality.n_components, quality.n_boundary_loops, quality.n_unused_vertices) == (0, 0, 3)


def test_faces_beyond_the_vertices_are_refused(cube):
    vertices, faces = cube(2.0)
    with pytest.raises(ValueError, match="there are 7"):
        measure_quality(vertices[:7], faces)


def test_a_vertex_pushed_through_its_neighbours_flips_triangles(plane, random_rotation):
    vertices, faces = plane(8)
    assert len(flipped_triangles(vertices, vertices, faces)) == 0
    folded = vertices.copy()
    centre = 4 * 9 + 4
    folded[centre] += [1.6, 0.3, 0.01]
    normals = np.cross(folded[faces[:, 1]] - folded[faces[:, 0]], folded[faces[:, 2]] - folded[faces[:, 0]])
    expected = np.flatnonzero(normals[:, 2] < 0)
    assert len(expected) > 0
    np.testing.assert_array_equal(flipped_triangles(folded, vertices, faces), expected)
    rotation = random_rotation(np.random.default_rng(1))
    np.testing.assert_array_equal(flipped_triangles(folded @ rotation.T, vertices, faces), expected)
    # What the reference has folded as well is not new, nor is what lies outside the region.
    assert len(flipped_triangles(folded, folded, faces)) == 0
    assert len(flipped_triangles(folded, vertices, faces, np.zeros(len(vertices), bool))) == 0


def test_bending_a_sheet_into_a_tube_flips_nothing(plane):
    vertices, faces = plane(20)
    angle = vertices[:, 0] / 20 * 2 * np.pi
    tube = np.stack([np.sin(angle) * 3, vertices[:, 1], np.cos(angle) * 3], axis=1)
    assert len(flipped_triangles(tube, vertices, faces)) == 0
