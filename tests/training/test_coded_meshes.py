"""Coded meshes: normals and areas are those of the plain functions."""

import numpy as np
import torch

from nphm_core.geometry.mesh import face_normals, vertex_normals
from nphm_core.training.coded_meshes import Topology, decode_normals, encode_normals
from tests.training.conftest import CPU


def test_normals_and_areas_agree_with_the_slow_twin(small_sphere):
    vertices, faces = small_sphere
    sides = np.stack([vertices * [1, 2, 0.5], vertices + 0.1 * vertices[:, [1, 2, 0]]])
    normals, areas = Topology(faces, CPU).normals_and_areas(torch.as_tensor(sides, dtype=torch.float32))
    for side, normal, area in zip(sides, normals.numpy(), areas.numpy(), strict=True):
        assert np.abs(normal - vertex_normals(side, faces)).max() < 1e-5
        assert np.abs(area - face_normals(side, faces)[1]).max() < 1e-7


def test_vertices_without_a_proper_triangle_have_no_normal():
    vertices = torch.eye(3).repeat(1, 2, 1).view(1, 6, 3).repeat(2, 1, 1)
    normals, areas = Topology(np.array([[0, 1, 2], [3, 3, 3]]), CPU).normals_and_areas(vertices)
    assert normals[:, 3:].abs().max() == 0
    assert torch.allclose(normals[:, :3], torch.full((2, 3, 3), 3**-0.5))
    assert areas[0, 1] == 0


def test_a_normal_comes_back_within_a_ten_thousandth():
    normals = torch.nn.functional.normalize(torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    normals = torch.cat([normals, torch.eye(3), -torch.eye(3)])
    assert (decode_normals(encode_normals(normals)) - normals).norm(dim=1).max() < 1e-4
