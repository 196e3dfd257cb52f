"""The sparse surface is the dense one, closed, turned outwards, and where the field is zero."""

import igl
import numpy as np
import pytest
import torch

from nphm_core.config import IdentityModelConfig
from nphm_core.geometry.components import connected_components
from nphm_core.geometry.mesh import unique_edges
from nphm_core.meshing.cube_cases import EDGES, case_triangles
from nphm_core.meshing.grid import HEAD_BOX, Box, Grid
from nphm_core.meshing.surface import Extraction, extract_surface
from nphm_core.models.identity_field import build_identity_field
from nphm_core.template.anchors import mean_anchors

UNIT_BOX = Box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))


def sphere(radius, centre=(0.0, 0.0, 0.0)):
    return lambda points: (points - points.new_tensor(centre)).norm(dim=1) - radius


def two_spheres(points):
    return torch.minimum(sphere(0.4, (-0.4, 0.1, 0))(points), sphere(0.3, (0.5, 0, 0.2))(points))


def torus(points):
    ring = points[:, :2].norm(dim=1) - 0.55
    return torch.stack([ring, points[:, 2]], dim=1).norm(dim=1) - 0.2


def thin_shell(points):
    return (points.norm(dim=1) - 0.6).abs() - 0.004


def far_speck(points):
    return torch.minimum(sphere(0.4, (-0.3, 0, 0))(points), sphere(0.02, (0.83, 0.77, -0.81))(points))


FIELDS = {f.__name__: f for f in (two_spheres, torus, thin_shell, far_speck)}


def extract(field, resolution=64, coarse=8, box=UNIT_BOX, **settings):
    return extract_surface(field, Extraction(resolution, coarse, box=box, **settings))


def volume(mesh):
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def is_closed_and_consistent(faces):
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    once = len(np.unique(directed, axis=0)) == len(directed)
    return once and bool((unique_edges(faces)[1] == 2).all())


@pytest.mark.parametrize("name", FIELDS)
def test_the_sparse_surface_is_that_of_the_dense_grid(name):
    dense, sparse = extract(FIELDS[name], coarse=64), extract(FIELDS[name])
    assert dense.n_evaluations == 65**3
    assert sparse.n_evaluations < 0.6 * dense.n_evaluations
    np.testing.assert_array_equal(sparse.mesh.faces, dense.mesh.faces)
    np.testing.assert_allclose(sparse.mesh.vertices, dense.mesh.vertices, atol=1e-6)
    assert is_closed_and_consistent(sparse.mesh.faces)


@pytest.mark.parametrize("seed", range(3))
def test_the_surface_of_noise_is_closed_and_manifold(seed):
    # Every case and every pair of neighbouring cases occurs.
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(18, 18, 18, generator=generator)
    noise[[0, -1]], noise[:, [0, -1]], noise[:, :, [0, -1]] = 1, 1, 1

    def field(points):
        at = ((points + 1) * 8.5).round().long()
        return noise[at[:, 0], at[:, 1], at[:, 2]]

    mesh = extract(field, 17, 17).mesh
    assert mesh.n_faces > 5000
    assert is_closed_and_consistent(mesh.faces)
    assert mesh.n_vertices == len(np.unique(mesh.faces))
    assert volume(mesh) > 0


def test_each_triangle_of_a_case_joins_crossed_edges():
    for case, triangles in enumerate(case_triangles()):
        crossed = {e for e, (a, b) in enumerate(EDGES) if (case >> a & 1) != (case >> b & 1)}
        assert set(triangles[triangles[:, 0] >= 0].ravel().tolist()) == crossed


def test_vertices_are_those_of_another_library():
    mesh = extract(torus, 40, 10).mesh
    grid = Grid.over(UNIT_BOX, 40, 1)
    axes = [torch.arange(41)] * 3
    points = grid.place(torch.cartesian_prod(*axes)).float()
    values = torus(points).double().numpy().reshape(41, 41, 41).transpose(2, 1, 0).ravel()
    places = points.double().numpy().reshape(41, 41, 41, 3).transpose(2, 1, 0, 3).reshape(-1, 3)
    other = igl.marching_cubes(values, places, 41, 41, 41, 0.0)[0]
    np.testing.assert_allclose(_sorted(mesh.vertices), _sorted(np.unique(other, axis=0)), atol=1e-6)


def _sorted(points):
    return points[np.lexsort(np.round(points, 5).T)]


def test_a_sphere_has_its_volume_and_looks_outwards():
    mesh = extract(sphere(0.5, (0.1, 0.05, -0.1)), 64, 16).mesh
    assert volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=5e-3)
    radius = np.linalg.norm(mesh.vertices - [0.1, 0.05, -0.1], axis=1)
    assert np.abs(radius - 0.5).max() < 1e-3


def test_a_torus_has_one_hole():
    mesh = extract(torus).mesh
    assert mesh.n_vertices - len(unique_edges(mesh.faces)[0]) + mesh.n_faces == 0


def test_cells_are_cubes_that_cover_the_box():
    grid = Grid.over(HEAD_BOX, 256, 4)
    sides = np.subtract(HEAD_BOX.high, HEAD_BOX.low)
    assert grid.n_cells == tuple(np.ceil(sides / grid.step - 1e-3).astype(int))
    assert max(grid.n_cells) == 256
    assert all((n - 1) % 4 == 0 and n > m for n, m in zip(grid.n_corners, grid.n_cells, strict=True))


def test_every_corner_is_evaluated_once():
    seen = []

    def field(points):
        seen.append(points)
        return torus(points)

    found = extract(field, 48, 12, points_per_call=1000)
    points = torch.cat(seen)
    assert max(map(len, seen)) <= 1000
    assert len(points) == found.n_evaluations == len(torch.unique(points, dim=0))


def test_a_steep_piece_smaller_than_a_coarse_cell_needs_a_finer_coarse_grid():
    # No distance field: a narrow well of slope 20, in the middle of a coarse cell.
    def field(points):
        away = (points - points.new_tensor([0.6875, 0.6875, 0.6875])).norm(dim=1)
        return torch.minimum(sphere(0.3, (-0.4, 0, 0))(points), (20 * (away - 0.03)).clamp_max(0.9))

    pieces = [len(np.unique(_labels(extract(field, 64, coarse).mesh))) for coarse in (16, 64)]
    assert pieces == [1, 2]
    assert len(np.unique(_labels(extract(field, 64, 16, safety=20.0).mesh))) == 2


def _labels(mesh):
    return connected_components(mesh.faces, mesh.n_vertices)


def test_what_was_met_is_followed_where_the_field_is_steep():
    # A bent sheet, 30 times steeper than a distance: distance alone would keep hardly a cell.
    def field(points):
        return 30 * (points.norm(dim=1) - 0.5 + 0.06 * torch.sin(9 * points[:, 0]) * torch.sin(8 * points[:, 1]))

    dense, sparse = extract(field, 64, 64).mesh, extract(field, 64, 8).mesh
    np.testing.assert_array_equal(sparse.faces, dense.faces)


def test_only_the_largest_piece_is_kept_on_request():
    mesh = extract(two_spheres, keep_largest=True).mesh
    assert volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=2e-2)
    assert len(np.unique(mesh.faces)) == mesh.n_vertices


def test_a_surface_that_leaves_the_box_is_open_there_only():
    mesh = extract(sphere(0.7, (0.6, 0, 0)), 32, 8).mesh
    edges, count = unique_edges(mesh.faces)
    np.testing.assert_allclose(mesh.vertices[edges[count == 1]][..., 0], 1.0)
    assert (count == 1).any()


def test_a_field_without_zeros_gives_an_empty_mesh():
    mesh = extract(lambda points: points.norm(dim=1) + 1).mesh
    assert (mesh.n_vertices, mesh.n_faces) == (0, 0)
    assert extract(lambda points: points.norm(dim=1) + 1, keep_largest=True).mesh.n_faces == 0


def test_a_field_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        extract(lambda points: points[:, 0] * float("nan"))


def test_resolutions_that_are_no_power_of_two_times_the_coarse_one_agree_as_well():
    for resolution in (37, 50):
        dense, sparse = extract(torus, resolution, resolution).mesh, extract(torus, resolution, 9).mesh
        np.testing.assert_array_equal(sparse.faces, dense.faces)


def test_a_random_ensemble_has_the_same_surface_sparse_and_dense():
    torch.manual_seed(0)
    settings = IdentityModelConfig(n_global=8, n_local=4, n_hidden=16, n_hidden_anchors=16)
    identity = build_identity_field(settings, torch.as_tensor(mean_anchors()).float())
    code = 0.1 * torch.randn(1, identity.n_code)

    def field(points):
        return points.norm(dim=1) - 0.35 + identity.sdf(points[None], code)[0]

    dense, sparse = (extract(field, 40, coarse, HEAD_BOX) for coarse in (40, 10))
    assert dense.mesh.n_faces > 1000
    assert sparse.n_evaluations < dense.n_evaluations
    np.testing.assert_array_equal(sparse.mesh.faces, dense.mesh.faces)
    np.testing.assert_allclose(sparse.mesh.vertices, dense.mesh.vertices, atol=1e-6)
