"""What a mask file ignores is not there for the stages that follow."""

import numpy as np

from nphm_core.geometry.mesh import Mesh
from nphm_core.registration.scan_surface import scan_surface, unmasked

PLANE = Mesh(
    np.array([[x, y, 0.0] for y in range(4) for x in range(4)]),
    np.array([[k, k + 1, k + 4] for k in (0, 1, 2, 4, 5, 6, 8, 9, 10)]),
)


def test_triangles_at_masked_vertices_are_cut_out_and_leave_a_border():
    keep = np.ones(16)
    keep[5] = 0.2
    mesh, mask = unmasked(PLANE, keep)
    assert mesh.n_vertices == 16
    assert len(mesh.faces) == 6
    assert not (mesh.faces == 5).any()
    surface = scan_surface(mesh, 10.0, np.zeros((0, 3)), np.zeros(0, int), keep_mask=mask)
    assert surface.evidence == "mask"
    assert surface.border[[1, 2, 4, 6]].all()
    np.testing.assert_array_equal(surface.bare, keep)


def test_masked_points_of_a_cloud_are_gone():
    cloud = Mesh(PLANE.vertices, np.zeros((0, 3), np.int64), np.tile([0.0, 0, 1], (16, 1)))
    mesh, mask = unmasked(cloud, (np.arange(16) != 5).astype(float))
    assert mesh.n_vertices == len(mask) == 15
    assert not (mesh.vertices == PLANE.vertices[5]).all(axis=1).any()


def test_a_mask_of_ones_changes_no_triangle():
    mesh, _ = unmasked(PLANE, np.ones(16))
    np.testing.assert_array_equal(mesh.faces, PLANE.faces)
