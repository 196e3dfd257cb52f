"""Closest points: known answers, invariance, and agreement with plain loops and with libigl."""

import numpy as np
import pytest

from nphm_core.geometry.closest import ClosestPoints

TRIANGLE = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
ONE_FACE = np.array([[0, 1, 2]])
NO_FACES = np.zeros((0, 3), np.int64)


def distance_to_triangle(point: np.ndarray, corners: np.ndarray) -> float:
    """Slow twin: inside the prism the plane decides, otherwise the nearest of the three segments."""
    a, b, c = corners
    candidates = []
    for start, end in ((a, b), (b, c), (c, a)):
        along = end - start
        t = np.clip((point - start) @ along / max(along @ along, 1e-300), 0, 1)
        candidates.append(np.linalg.norm(point - start - t * along))
    normal = np.cross(b - a, c - a)
    if normal @ normal > 0:
        inside = [np.dot(np.cross(e - s, point - s), normal) >= 0 for s, e in ((a, b), (b, c), (c, a))]
        if all(inside):
            candidates.append(abs((point - a) @ normal) / np.linalg.norm(normal))
    return min(candidates)


@pytest.mark.parametrize(
    ("point", "closest", "barycentric"),
    [
        ([1, 1, 3], [1, 1, 0], [0.5, 0.25, 0.25]),
        ([-1, -1, 0], [0, 0, 0], [1, 0, 0]),
        ([6, 1, 0], [4, 0, 0], [0, 1, 0]),
        ([0, 7, 2], [0, 4, 0], [0, 0, 1]),
        ([1, -2, 0], [1, 0, 0], [0.75, 0.25, 0]),
        ([-3, 2, 4], [0, 2, 0], [0.5, 0, 0.5]),
        ([4, 4, 0], [2, 2, 0], [0, 0.5, 0.5]),
    ],
)
def test_every_region_of_a_triangle_has_its_known_answer(point, closest, barycentric):
    found = ClosestPoints(TRIANGLE, ONE_FACE).query(np.array([point], float))
    np.testing.assert_allclose(found.point[0], closest, atol=1e-12)
    np.testing.assert_allclose(found.barycentric[0], barycentric, atol=1e-12)
    np.testing.assert_allclose(found.distance[0], np.linalg.norm(np.subtract(point, closest)), atol=1e-12)
    assert found.face[0] == 0


def test_distance_to_a_sphere_is_radius_minus_distance_from_its_centre(sphere):
    rng = np.random.default_rng(0)
    vertices, faces = sphere(100.0, 200)
    direction = rng.normal(size=(5000, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    radius = rng.uniform(20, 180, 5000)
    found = ClosestPoints(vertices, faces).query(direction * radius[:, None])
    # Facets of 3 mm on a sphere of 100 mm sink at most 0.02 mm.
    assert np.abs(found.distance - np.abs(radius - 100)).max() < 0.02


def test_a_point_cloud_gives_the_nearest_vertex():
    rng = np.random.default_rng(1)
    cloud, queries = rng.normal(size=(500, 3)), rng.normal(size=(300, 3))
    found = ClosestPoints(cloud, NO_FACES).query(queries)
    distances = np.linalg.norm(queries[:, None] - cloud[None], axis=2)
    np.testing.assert_array_equal(found.face, distances.argmin(axis=1))
    np.testing.assert_allclose(found.distance, distances.min(axis=1), atol=1e-12)
    np.testing.assert_array_equal(found.barycentric, np.tile([1.0, 0.0, 0.0], (300, 1)))
    np.testing.assert_allclose(found.point, cloud[found.face], atol=1e-12)


def test_nothing_is_found_beyond_the_distance_limit():
    points = np.array([[1.0, 1.0, 2.0], [1.0, 1.0, 2.001], [1.0, 1.0, 0.0]])
    found = ClosestPoints(TRIANGLE, ONE_FACE).query(points, max_distance=2.0)
    np.testing.assert_array_equal(found.face, [0, -1, 0])
    np.testing.assert_array_equal(found.distance, [2.0, np.inf, 0.0])
    assert np.isnan(found.point[1]).all()
    np.testing.assert_array_equal(found.barycentric[1], 0.0)


def random_soup(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Give unconnected triangles of very different sizes; some are segments, some points."""
    centre = rng.uniform(-50, 50, (n, 1, 3))
    corners = centre + rng.normal(size=(n, 3, 3)) * 10 ** rng.uniform(-3, 1.5, (n, 1, 1))
    corners[::7, 2] = corners[::7, 0] + 0.3 * (corners[::7, 1] - corners[::7, 0])
    corners[::11, 1:] = corners[::11, :1]
    corners[::13, 2] = corners[::13, 1]
    return corners.reshape(-1, 3), np.arange(3 * n).reshape(n, 3)


def test_agrees_with_a_plain_loop_on_any_triangles_degenerate_ones_too():
    rng = np.random.default_rng(2)
    vertices, faces = random_soup(rng, 60)
    queries = rng.uniform(-70, 70, (60, 3))
    found = ClosestPoints(vertices, faces).query(queries)
    slow = [min(distance_to_triangle(q, vertices[f]) for f in faces) for q in queries]
    np.testing.assert_allclose(found.distance, slow, atol=1e-6)
    on_surface = (vertices[faces[found.face]] * found.barycentric[:, :, None]).sum(axis=1)
    np.testing.assert_allclose(on_surface, found.point, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(queries - found.point, axis=1), found.distance, atol=1e-10)


def test_agrees_with_libigl_to_2e_5_mm(sphere):
    igl = pytest.importorskip("igl")
    rng = np.random.default_rng(3)
    vertices, faces = sphere(100.0, 150)
    vertices = vertices * [1.0, 1.3, 0.9] + rng.normal(0, 0.2, vertices.shape) + [2000.0, -500.0, 80.0]
    queries = vertices[rng.integers(0, len(vertices), 3000)] + rng.normal(0, 5, (3000, 3))
    found = ClosestPoints(vertices, faces).query(queries)
    distance_sq, _, _ = igl.point_mesh_squared_distance(queries, vertices, faces)
    assert np.abs(found.distance - np.sqrt(distance_sq)).max() < 2e-5


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_distances_do_not_change_under_rigid_motion_and_follow_scale(scale, random_rotation):
    rng = np.random.default_rng(4)
    vertices, faces = random_soup(rng, 200)
    queries = rng.uniform(-60, 60, (500, 3))
    rotation = random_rotation(rng)
    still = ClosestPoints(vertices, faces).query(queries)
    shift = np.array([300.0, -1000.0, 20.0])
    moved = ClosestPoints(scale * (vertices @ rotation.T + shift), faces).query(scale * (queries @ rotation.T + shift))
    np.testing.assert_allclose(moved.distance / scale, still.distance, atol=1e-6)


def test_order_and_number_of_queries_do_not_change_distances(sphere):
    rng = np.random.default_rng(5)
    vertices, faces = sphere(10.0, 30)
    queries = rng.normal(0, 10, (400, 3))
    search = ClosestPoints(vertices, faces)
    together = search.query(queries).distance
    one_by_one = np.array([search.query(q[None]).distance[0] for q in queries])
    np.testing.assert_allclose(together, one_by_one, atol=1e-12)


def test_many_equal_primitives_and_single_ones_are_no_trouble():
    cloud = np.zeros((5000, 3))
    assert ClosestPoints(cloud, NO_FACES).query(np.array([[3.0, 4.0, 0.0]])).distance[0] == 5.0
    assert ClosestPoints(cloud[:1], NO_FACES).query(np.array([[3.0, 4.0, 0.0]])).face[0] == 0
    # Each point ten times as far as the one before: a tree by space alone would be as deep as the list is long.
    line = np.zeros((300, 3))
    line[:, 0] = 10.0 ** np.linspace(-150, 2, 300)
    found = ClosestPoints(line, NO_FACES).query(line + np.array([0, 1e-3, 0]))
    np.testing.assert_allclose(found.distance, 1e-3, rtol=1e-6)


def test_no_queries_give_empty_answers():
    found = ClosestPoints(TRIANGLE, ONE_FACE).query(np.zeros((0, 3)))
    assert found.face.shape == (0,)
    assert found.barycentric.shape == (0, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    broken = TRIANGLE.copy()
    broken[1, 2] = bad
    with pytest.raises(ValueError, match="1 of 3 vertices are not finite"):
        ClosestPoints(broken, ONE_FACE)
    with pytest.raises(ValueError, match="1 of 3 query points are not finite"):
        ClosestPoints(TRIANGLE, ONE_FACE).query(broken)


def test_wrong_calls_are_refused():
    with pytest.raises(ValueError, match="no vertices"):
        ClosestPoints(np.zeros((0, 3)), NO_FACES)
    with pytest.raises(ValueError, match="faces name vertices 1 to 3; there are 3"):
        ClosestPoints(TRIANGLE, np.array([[1, 2, 3]]))
    with pytest.raises((ValueError, TypeError), match=r"expected \(n, 3\)|Type-check"):
        ClosestPoints(TRIANGLE, ONE_FACE).query(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="max_distance"):
        ClosestPoints(TRIANGLE, ONE_FACE).query(TRIANGLE, max_distance=np.nan)
