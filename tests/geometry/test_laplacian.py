import numpy as np

from nphm_core.geometry.laplacian import corner_cotangents, edge_weights, neighbourhood, vertex_areas
from nphm_core.geometry.mesh import face_normals, unique_edges


def test_neighbours_are_the_edges(sphere):
    vertices, faces = sphere(90.0, 12)
    around = neighbourhood(faces, len(vertices))
    edges, _ = unique_edges(faces)
    expected = {(int(a), int(b)) for a, b in edges} | {(int(b), int(a)) for a, b in edges}
    found = {
        (i, int(j)) for i in range(len(vertices)) for j in around.neighbours[around.offsets[i] : around.offsets[i + 1]]
    }
    assert found == expected
    assert len(around.neighbours) == len(expected)


def test_face_slots_name_the_directed_edges(sphere):
    vertices, faces = sphere(90.0, 12)
    around = neighbourhood(faces, len(vertices))
    owner = np.repeat(np.arange(len(vertices)), np.diff(around.offsets))
    for k, (i, j) in enumerate(((0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2))):
        slot = around.face_slots[:, k]
        assert np.array_equal(owner[slot], faces[:, i])
        assert np.array_equal(around.neighbours[slot], faces[:, j])


def test_weights_of_a_unit_square_are_half_cotangents():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    around = neighbourhood(faces, 4)
    weights = edge_weights(corner_cotangents(vertices, faces, smallest=0.0), around)
    found = {(i, int(around.neighbours[e])): weights[e] for i in range(4) for e in range(*around.offsets[i : i + 2])}
    assert np.isclose(found[0, 1], 0.5)
    assert np.isclose(found[2, 3], 0.5)
    assert np.isclose(found[0, 2], 0.0)  # twice opposite to 90 degrees
    assert found[0, 2] == found[2, 0]


def test_obtuse_triangles_keep_positive_weights():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0.5, 0.01, 0]])
    cotangents = corner_cotangents(vertices, np.array([[0, 1, 2]]))
    assert (cotangents > 0).all()
    assert (cotangents <= 5).all()


def test_areas_sum_to_the_surface(sphere):
    vertices, faces = sphere(90.0, 12)
    assert np.isclose(vertex_areas(vertices, faces).sum(), face_normals(vertices, faces)[1].sum(), rtol=1e-12)
