"""What a neural head says of observed points: signed distance, normal, and how both change with codes and pose.

The same function serves two layouts: one head with many points, to evaluate; and as many heads as points, each with
a code of its own, so that one backward pass gives the derivatives of every point's distance by its code. That is the
Jacobian a second-order method needs, for the price of two evaluations.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nphm_core.fitting.roots import Roots, attached, find_canonical
from nphm_core.fitting.variables import rotation_matrices
from nphm_core.models.identity_field import whole_rows
from nphm_core.models.neural_head import NeuralHead


@dataclass(frozen=True)
class Pose:
    """Poses of heads: x -> scale * rotation @ x + translation, from clouds to canonical space."""

    rotation: Float[Tensor, "n_heads 3 3"]
    translation: Float[Tensor, "n_heads 3"]
    log_scale: Float[Tensor, " n_heads"]

    def moved(self, step: Float[Tensor, "n_heads 7"]) -> "Pose":
        """Give the poses after a small step: turn, shift, logarithm of the scale; differentiable."""
        return Pose(
            rotation_matrices(step[:, :3]) @ self.rotation, self.translation + step[:, 3:6], self.log_scale + step[:, 6]
        )

    def apply(self, points: Float[Tensor, "n_heads n_points 3"]) -> Float[Tensor, "n_heads n_points 3"]:
        """Map points."""
        turned = points @ (self.rotation * self.log_scale.exp()[:, None, None]).transpose(1, 2)
        return turned + self.translation[:, None]


@dataclass(frozen=True)
class Measured:
    """What the head says of points; differentiable by codes and pose."""

    distance: Float[Tensor, "n_heads n_points"]
    """Signed, in the clouds' size: a head does not fit better by being looked at from afar."""
    normal: Float[Tensor, "n_heads n_points 3"]
    """Of the surface through the point, in the cloud's directions, unit."""


def find_roots(
    head: NeuralHead,
    posed: Float[Tensor, "n_heads n_points 3"],
    identity: Float[Tensor, "n_heads n_identity"],
    expression: Float[Tensor, "n_heads n_expression"],
    *,
    n_steps: int,
    tolerance: float,
    start: Roots | Float[Tensor, "n_heads n_points 3"] | None = None,
    restart: bool = False,
) -> Roots | None:
    """Find the canonical points of a forward model; None for models that need none."""
    if head.expression is None or head.is_backward:
        return None
    with torch.no_grad():
        condition = head.condition(identity)
    return find_canonical(
        head.expression,
        posed,
        condition,
        expression,
        n_steps=n_steps,
        tolerance=tolerance,
        start=start,
        restart=restart,
    )


def measure(
    head: NeuralHead,
    points: Float[Tensor, "n_heads n_points 3"],
    identity: Float[Tensor, "n_heads n_identity"],
    expression: Float[Tensor, "n_heads n_expression"],
    pose: Pose,
    roots: Roots | None,
) -> Measured:
    """Evaluate the posed head at points of clouds; a forward model needs their roots."""
    posed = pose.apply(points)
    if head.expression is None:
        distance, gradient = head.identity.sdf_and_gradient(posed, identity)
    elif head.is_backward:
        distance, gradient = _through_backward(head, posed, identity, expression)
    else:
        if roots is None:
            raise ValueError("a forward model needs canonical points; find the roots first")
        canonical = attached(head.expression, roots, posed, head.condition(identity), expression)
        distance, gradient = head.identity.sdf_and_gradient(canonical, identity)
        # The gradient of sdf(canonical(posed)) by the posed point; the warp's derivative is that at the root.
        gradient = (gradient[..., None, :] @ roots.inverse_jacobian.detach())[..., 0, :]
    length = gradient.norm(dim=2, keepdim=True).clamp_min(1e-6)
    normal = (gradient / length) @ pose.rotation
    return Measured(distance * (-pose.log_scale).exp()[:, None], normal)


def anchor_offsets(
    head: NeuralHead,
    anchors_observed: Float[Tensor, "n_heads n 3"],
    identity: Float[Tensor, "n_heads n_identity"],
    expression: Float[Tensor, "n_heads n_expression"],
    pose: Pose,
    ids: Int[Tensor, "n_heads n"],
) -> Float[Tensor, "n_heads n 3"]:
    """Give how far some of the model's anchors, by their numbers, are from observed ones, in the clouds' size.

    A backward model compares in canonical space, where its anchors are.
    """
    anchors = head.identity.anchors(identity).gather(1, ids[..., None].expand(-1, -1, 3))
    posed = pose.apply(anchors_observed)
    if head.expression is not None:
        condition = head.condition(identity)
        if head.is_backward:
            posed = posed + head.expression.deformation(posed, condition, expression)
        else:
            anchors = anchors + head.expression.deformation(anchors, condition, expression)
    return (anchors - posed) * (-pose.log_scale).exp()[:, None, None]


def _through_backward(
    head: NeuralHead, posed: Tensor, identity: Tensor, expression: Tensor
) -> tuple[Float[Tensor, "n_heads n_points"], Float[Tensor, "n_heads n_points 3"]]:
    field = head.expression
    assert field is not None
    codes = torch.cat([head.condition(identity), expression], dim=1)
    rows, folded, groups = whole_rows(field.networks, posed, codes)
    values, jacobian = field.networks.values_and_jacobian(rows, folded, groups)
    values, jacobian = values.unflatten(0, posed.shape[:2]), jacobian.unflatten(0, posed.shape[:2])
    distance, gradient = head.identity.sdf_and_gradient(posed + values[..., :3], identity, values[..., 3:])
    by_offset = (gradient[..., None, :] @ jacobian)[..., 0, :]
    return distance, gradient[..., :3] + by_offset
