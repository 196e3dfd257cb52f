"""The expression field: derivatives, the backward variant, the whole head."""

import pytest
import torch

from nphm_core.models.neural_head import build_head


def _inputs(head, n_heads=2, n_points=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = 0.4 * torch.randn(n_heads, n_points, 3, generator=generator)
    identity = 0.3 * torch.randn(n_heads, head.identity.n_code, generator=generator)
    expression = 0.3 * torch.randn(n_heads, head.expression.n_code, generator=generator)
    return points, identity, expression


def test_the_written_out_jacobian_is_that_of_autograd(small_head):
    head = small_head.double()
    points, identity, expression = (x.double() for x in _inputs(head))
    condition = head.condition(identity)
    points.requires_grad_()
    offset, jacobian = head.expression.deformation_and_jacobian(points, condition, expression)
    torch.testing.assert_close(offset, head.expression.deformation(points, condition, expression))
    for i in range(3):
        moved = head.expression.deformation(points, condition, expression)
        (row,) = torch.autograd.grad(moved[..., i].sum(), points)
        torch.testing.assert_close(jacobian[..., i, :], row, rtol=1e-9, atol=1e-10)


def test_a_backward_head_gives_distances_in_posed_space(small_identity, small_expression, anchors):
    settings = small_expression.model_copy(update={"direction": "backward"})
    head = build_head(small_identity, settings, anchors, generator=torch.Generator().manual_seed(1))
    points, identity, expression = _inputs(head)
    warp = head.expression.warp(points, head.condition(identity), expression)
    assert warp.ambient.shape == (2, 20, 2)
    wanted = head.identity.sdf(points + warp.offset, identity, warp.ambient)
    torch.testing.assert_close(head.posed_sdf(points, identity, expression), wanted)
    with pytest.raises(ValueError, match="backward"):
        head.posed(points, identity, expression)


def test_the_gradient_by_ambient_coordinates_is_given_too(small_identity, small_expression, anchors):
    settings = small_expression.model_copy(update={"direction": "backward"})
    head = build_head(small_identity, settings, anchors, generator=torch.Generator().manual_seed(1)).double()
    points, identity, _ = (x.double() for x in _inputs(head))
    ambient = (0.1 * torch.randn(2, 20, 2, generator=torch.Generator().manual_seed(4))).double().requires_grad_()
    _, gradient = head.identity.sdf_and_gradient(points, identity, ambient)
    (wanted,) = torch.autograd.grad(head.identity.sdf(points, identity, ambient).sum(), ambient)
    assert gradient.shape == (2, 20, 5)
    torch.testing.assert_close(gradient[..., 3:], wanted, rtol=1e-9, atol=1e-10)


def test_a_forward_head_refuses_what_only_a_backward_one_has(small_head):
    points, identity, expression = _inputs(small_head)
    with pytest.raises(ValueError, match="canonical points"):
        small_head.posed_sdf(points, identity, expression)
