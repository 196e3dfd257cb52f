import numpy as np
import pytest

from nphm_core.geometry.mesh import unique_edges, vertex_normals
from nphm_core.geometry.subdivision import (
    Subdivision,
    hierarchy_from_arrays,
    hierarchy_to_arrays,
    loop_subdivision,
    subdivide_values,
    subdivided_faces,
    subdivision_hierarchy,
)

TETRAHEDRON = np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
TETRAHEDRON_FACES = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])


def grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.arange(n, dtype=float), np.arange(n, dtype=float), indexing="ij")
    vertices = np.stack([x.ravel(), y.ravel(), np.zeros(n * n)], axis=1)
    i = np.arange(n * n).reshape(n, n)
    a, b, c, d = i[:-1, :-1].ravel(), i[1:, :-1].ravel(), i[1:, 1:].ravel(), i[:-1, 1:].ravel()
    return vertices, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def slow_loop(vertices: np.ndarray, faces: np.ndarray) -> dict[frozenset, np.ndarray]:
    """Loop's rules for a closed mesh, one vertex at a time; keys are the coarse vertices that a fine one belongs to."""
    out = {}
    neighbours = {i: set() for i in range(len(vertices))}
    opposite: dict[frozenset, list[int]] = {}
    for a, b, c in faces:
        for i, j, k in ((a, b, c), (b, c, a), (c, a, b)):
            neighbours[i] |= {j, k}
            opposite.setdefault(frozenset((i, j)), []).append(k)
    for i, around in neighbours.items():
        n = len(around)
        beta = 3 / 16 if n == 3 else 3 / (8 * n)
        out[frozenset((i,))] = (1 - n * beta) * vertices[i] + beta * sum(vertices[j] for j in around)
    for ends, sides in opposite.items():
        out[ends] = 3 / 8 * sum(vertices[i] for i in ends) + 1 / 8 * sum(vertices[i] for i in sides)
    return out


def test_loop_agrees_with_a_slow_twin_on_a_closed_mesh():
    first = loop_subdivision(TETRAHEDRON_FACES, 4)
    vertices, faces = first.matrix @ TETRAHEDRON, first.faces
    step = loop_subdivision(faces, len(vertices))
    fine = step.matrix @ vertices
    expected = slow_loop(vertices, faces)
    edges, _ = unique_edges(faces)
    for i in range(len(vertices)):
        assert np.allclose(fine[i], expected[frozenset((i,))], atol=1e-12)
    for row, (a, b) in enumerate(edges):
        assert np.allclose(fine[len(vertices) + row], expected[frozenset((int(a), int(b)))], atol=1e-12)


def test_every_face_becomes_four_of_the_same_orientation():
    step = loop_subdivision(TETRAHEDRON_FACES, 4)
    assert step.n_vertices == 4 + 6
    assert np.array_equal(np.bincount(step.parent_face), [4, 4, 4, 4])
    _, count = unique_edges(step.faces)
    assert (count == 2).all()
    vertices = step.matrix @ TETRAHEDRON
    assert ((vertex_normals(vertices, step.faces) * vertices).sum(1) > 0).all()


def test_flat_grid_stays_flat_and_linear_functions_stay_linear_inside():
    vertices, faces = grid(6)
    hierarchy = subdivision_hierarchy(faces, len(vertices), 2)
    fine = subdivide_values(hierarchy, vertices)
    assert np.abs(fine[:, 2]).max() == 0
    values = subdivide_values(hierarchy, vertices @ [1.0, 2.0, 0.0] + 3.0)
    assert np.allclose(values, fine @ [1.0, 2.0, 0.0] + 3.0, atol=1e-12)
    for step in hierarchy:
        assert np.allclose(step.matrix.sum(1), 1, atol=1e-12)


def test_boundary_follows_the_boundary_alone():
    vertices, faces = grid(4)
    step = loop_subdivision(faces, len(vertices))
    raised = vertices.copy()
    raised[5, 2] = 1.0  # an inner vertex
    moved = (step.matrix @ raised)[:, 2] != 0
    edges, count = unique_edges(step.faces)
    assert not moved[np.unique(edges[count == 1])].any()


@pytest.mark.parametrize("scheme", ["loop", "midpoint"])
def test_selection_leaves_no_t_junction_and_moves_nothing_outside(scheme):
    vertices, faces = grid(8)
    rng = np.random.default_rng(0)
    vertices[:, 2] = rng.normal(size=len(vertices))
    centroid = vertices[faces].mean(1)
    selected = np.linalg.norm(centroid[:, :2] - 3.5, axis=1) < 2.2
    hierarchy = subdivision_hierarchy(faces, len(vertices), 2, selected, scheme)
    fine = subdivide_values(hierarchy, vertices)
    fine_faces, parent = subdivided_faces(hierarchy, faces)
    _, count = unique_edges(fine_faces)
    assert (count == 1).sum() == (unique_edges(faces)[1] == 1).sum()
    outside = np.ones(len(vertices), bool)
    outside[faces[selected]] = False
    assert np.array_equal(fine[: len(vertices)][outside], vertices[outside])
    assert (np.bincount(parent)[selected] >= 16).all()
    # The surface of a face that is not selected stays in its plane.
    for face in np.flatnonzero(~selected):
        corners = vertices[faces[face]]
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        children = fine[fine_faces[parent == face]].reshape(-1, 3)
        assert np.abs((children - corners[0]) @ normal).max() < 1e-12


def test_midpoint_moves_no_vertex():
    vertices, faces = grid(4)
    step = loop_subdivision(faces, len(vertices), scheme="midpoint")
    assert np.array_equal((step.matrix @ vertices)[: len(vertices)], vertices)


def test_arrays_give_the_hierarchy_back():
    _, faces = grid(5)
    hierarchy = subdivision_hierarchy(faces, 25, 2)
    again = hierarchy_from_arrays(hierarchy_to_arrays(hierarchy))
    assert len(again) == 2
    for a, b in zip(hierarchy, again, strict=True):
        assert isinstance(b, Subdivision)
        assert np.array_equal(a.faces, b.faces)
        assert a.n_coarse_vertices == b.n_coarse_vertices
        assert (a.matrix != b.matrix).nnz == 0
