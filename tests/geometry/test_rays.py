"""Ray casting: known answers, no leaks at edges, any unit, and agreement with a plain loop."""

import numpy as np
import pytest

from nphm_core.geometry.rays import RayCaster

TRIANGLE = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
ONE_FACE = np.array([[0, 1, 2]])


def test_a_ray_meets_a_triangle_from_either_side_where_it_should():
    origins = np.array([[1.0, 2.0, 5.0], [1.0, 2.0, -5.0], [3.0, 3.0, 5.0], [1.0, 2.0, 5.0]])
    directions = np.array([[0.0, 0.0, -1.0], [0.0, 0.0, 10.0], [0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    hits = RayCaster(TRIANGLE, ONE_FACE).cast(origins, directions)
    np.testing.assert_array_equal(hits.face, [0, 0, -1, -1])
    np.testing.assert_array_equal(hits.hit, [True, True, False, False])
    np.testing.assert_allclose(hits.distance, [5, 5, np.inf, np.inf], atol=1e-12)
    np.testing.assert_allclose(hits.barycentric, [[0.25, 0.25, 0.5]] * 2 + [[0, 0, 0]] * 2, atol=1e-12)


def test_the_first_of_several_surfaces_is_met(cube):
    vertices, faces = cube(2.0)
    hits = RayCaster(vertices, faces).cast(np.array([[0.3, 0.1, 9.0], [0.3, 0.1, 0.0]]), np.array([[0.0, 0, -1]] * 2))
    np.testing.assert_allclose(hits.distance, [8.0, 1.0], atol=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_a_sphere_is_met_at_its_radius_in_any_unit_and_place(scale, shift, sphere):
    vertices, faces = sphere(100.0, 200)
    rng = np.random.default_rng(0)
    outward = rng.normal(size=(2000, 3))
    outward /= np.linalg.norm(outward, axis=1)[:, None]
    centre = np.array([shift, -shift, 0.0])
    caster = RayCaster(scale * (vertices + centre), faces)
    hits = caster.cast(scale * (centre + 900 * outward), -outward)
    assert hits.hit.all()
    distance = hits.distance / scale
    # Facets of 3 mm on a sphere of 100 mm sink at most 0.02 mm.
    assert distance.min() > 800 - 1e-6
    assert distance.max() < 800.02
    corners = vertices[faces[hits.face]]
    met = (corners * hits.barycentric[:, :, None]).sum(axis=1)
    np.testing.assert_allclose(met, (900 - distance)[:, None] * outward, atol=1e-5)


def test_no_ray_slips_through_the_edges_of_a_closed_surface(sphere):
    vertices, faces = sphere(1.0, 60)
    t = np.random.default_rng(3).random((3, len(faces), 1))
    directions = (
        t * vertices[faces].swapaxes(0, 1) + (1 - t) * vertices[np.roll(faces, 1, axis=1)].swapaxes(0, 1)
    ).reshape(-1, 3)
    hits = RayCaster(vertices, faces).cast(np.zeros_like(directions), directions)
    assert hits.hit.all()
    np.testing.assert_allclose(hits.distance, np.linalg.norm(directions, axis=1), atol=1e-6)


def test_rays_through_vertices_meet_them_or_in_rare_cases_nothing(sphere):
    vertices, faces = sphere(1.0, 60)
    hits = RayCaster(vertices, faces).cast(np.zeros_like(vertices), vertices)
    assert hits.hit.mean() > 0.995
    np.testing.assert_allclose(hits.distance[hits.hit], 1.0, atol=1e-6)


def first_hit(vertices: np.ndarray, faces: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> float:
    """Slow twin: solve for each triangle alone."""
    best = np.inf
    for a, b, c in vertices[faces]:
        matrix = np.stack([b - a, c - a, -direction], axis=1)
        u, v, t = np.linalg.solve(matrix, origin - a)
        if min(u, v, 1 - u - v, t) >= 0:
            best = min(best, t * np.linalg.norm(direction))
    return best


def test_agrees_with_a_plain_loop_on_random_triangles():
    rng = np.random.default_rng(1)
    vertices = (rng.uniform(-5, 5, (80, 1, 3)) + rng.normal(0, 2, (80, 3, 3))).reshape(-1, 3)
    faces = np.arange(240).reshape(80, 3)
    origins, directions = rng.uniform(-8, 8, (150, 3)), rng.normal(size=(150, 3))
    hits = RayCaster(vertices, faces).cast(origins, directions)
    slow = [first_hit(vertices, faces, o, d) for o, d in zip(origins, directions, strict=True)]
    assert hits.hit.sum() > 30
    np.testing.assert_allclose(hits.distance, slow, atol=1e-9)


def test_hits_move_with_the_mesh(sphere, random_rotation):
    rng = np.random.default_rng(2)
    vertices, faces = sphere(10.0, 40)
    origins, directions = rng.normal(0, 20, (500, 3)), rng.normal(size=(500, 3))
    still = RayCaster(vertices, faces).cast(origins, directions)
    rotation, shift = random_rotation(rng), np.array([5.0, -900.0, 30.0])
    moved = RayCaster(vertices @ rotation.T + shift, faces).cast(origins @ rotation.T + shift, directions @ rotation.T)
    np.testing.assert_array_equal(moved.hit, still.hit)
    np.testing.assert_allclose(moved.distance[moved.hit], still.distance[still.hit], atol=1e-5)


def test_triangles_seen_edge_on_or_without_area_give_finite_answers():
    vertices = np.concatenate([TRIANGLE, [[1.0, 1.0, 1.0]] * 3, [[0.0, 0, 2], [1, 0, 2], [2, 0, 2]]])
    caster = RayCaster(vertices, np.arange(9).reshape(3, 3))
    hits = caster.cast(np.array([[-3.0, 1.0, 0.0], [-3.0, 1.0, 1.0], [-3.0, 0.0, 2.0]]), np.array([[1.0, 0, 0]] * 3))
    assert np.isfinite(hits.barycentric).all()
    assert np.isfinite(hits.distance[hits.hit]).all()


def test_no_rays_give_empty_answers():
    hits = RayCaster(TRIANGLE, ONE_FACE).cast(np.zeros((0, 3)), np.zeros((0, 3)))
    assert hits.face.shape == (0,)
    assert hits.barycentric.shape == (0, 3)


def test_wrong_calls_are_refused():
    broken = TRIANGLE.copy()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        RayCaster(broken, ONE_FACE)
    with pytest.raises(ValueError, match="no faces"):
        RayCaster(TRIANGLE, np.zeros((0, 3), np.int64))
    with pytest.raises(ValueError, match="there are 3"):
        RayCaster(TRIANGLE, np.array([[1, 2, 3]]))
    with pytest.raises(ValueError, match="not finite"):
        RayCaster(TRIANGLE, ONE_FACE).cast(broken, TRIANGLE)
    with pytest.raises(ValueError, match="1 of 3 rays have a direction of length zero"):
        RayCaster(TRIANGLE, ONE_FACE).cast(TRIANGLE, TRIANGLE)
