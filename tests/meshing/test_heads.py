"""Heads are extracted where their models say, and expressions of a forward model share their faces."""

import numpy as np
import pytest
import torch

from nphm_core.meshing import Extraction, canonical_mesh, posed_mesh, posed_meshes
from tests.meshing.sphere_head import SphereHead

COARSE = Extraction(resolution=40, coarse_resolution=20)


def implicit(vertices, move, stretch):
    return np.linalg.norm((vertices - [move, 0, 0]) / [1, stretch, 1], axis=1)


def test_the_canonical_mesh_is_the_identitys():
    mesh = canonical_mesh(SphereHead(), torch.tensor([0.3]), COARSE)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 0.3, atol=2e-3)


@pytest.mark.parametrize("is_backward", [False, True])
def test_a_posed_mesh_is_where_the_expression_moves_it(is_backward):
    mesh = posed_mesh(
        SphereHead(is_backward=is_backward), torch.tensor([0.3]), torch.tensor([0.05, 0.8]), 40, how=COARSE
    )
    np.testing.assert_allclose(implicit(mesh.vertices, 0.05, 0.8), 0.3, atol=3e-3)


def test_expressions_of_a_forward_model_share_their_faces():
    codes = torch.tensor([[0.0, 1.0], [0.1, 1.2]])
    first, second = posed_meshes(SphereHead(), torch.tensor([0.25]), codes, COARSE)
    assert first.faces is second.faces
    moved = first.vertices * [1, 1.2, 1] + [0.1, 0, 0]
    np.testing.assert_allclose(second.vertices, moved, atol=1e-6)


def test_without_an_expression_a_head_is_canonical():
    head, code = SphereHead(), torch.tensor([0.3])
    mesh = posed_mesh(head, code, None, 40, how=COARSE)
    np.testing.assert_array_equal(mesh.vertices, canonical_mesh(head, code, COARSE).vertices)


def test_a_canonical_mesh_of_a_backward_model_has_ambient_coordinates_of_zero():
    head = SphereHead(is_backward=True)
    head.identity.n_ambient = 2
    assert canonical_mesh(head, torch.tensor([0.3]), COARSE).n_faces > 100
