"""Points of the mean head's skin, which poses are searched with.

Random points are brought to the surface along the gradient; those from which the way out along the normal is free
belong to the skin. No mesh is needed for that.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from nphm_core.errors import FittingError
from nphm_core.fitting.measured_points import Pose, measure
from nphm_core.fitting.roots import inverse_matrices
from nphm_core.meshing.grid import HEAD_BOX
from nphm_core.models.neural_head import NeuralHead

_N_RANDOM = 8_000
_N_PROJECTIONS = 8
_MAX_STEP = 0.1
_ON_SURFACE = 0.004
_WAY_OUT = (0.02, 0.04, 0.08, 0.15, 0.3)
_SPACING = 0.015
_MIN_POINTS = 200


@torch.no_grad()
def mean_head_points(
    head: NeuralHead, *, generator: torch.Generator
) -> tuple[Float[ndarray, "n 3"], Float[ndarray, "n 3"]]:
    """Give skin points and outward normals of the mean identity in the mean expression; canonical units."""
    surface = _MeanHead(head)
    low, high = surface.mean.new_tensor(HEAD_BOX.low), surface.mean.new_tensor(HEAD_BOX.high)
    random = torch.rand(_N_RANDOM, 3, generator=generator, device=generator.device).to(surface.mean)
    points = low + (high - low) * random
    for _ in range(_N_PROJECTIONS):
        distance, normal = surface.evaluate(points)
        points = points - distance.clamp(-_MAX_STEP, _MAX_STEP)[:, None] * normal
    distance, normal = surface.evaluate(points)
    kept = (distance.abs() < _ON_SURFACE) & ((points > low) & (points < high)).all(dim=1)
    points, normal = points[kept], normal[kept]
    free = _is_free(surface, points, normal)
    points, normal = surface.posed(points[free], normal[free])
    _, first = np.unique(np.floor(points.cpu().numpy() / _SPACING), axis=0, return_index=True)
    if len(first) < _MIN_POINTS:
        raise FittingError(
            f"the mean head of this model has hardly any surface ({len(first)} points of it were found); expected a "
            "trained model. Train it longer, or give another model"
        )
    first.sort()
    return points.cpu().numpy()[first].astype(np.float64), normal.cpu().numpy()[first].astype(np.float64)


class _MeanHead:
    """The mean head where its surface is found fastest: canonical space, posed space for backward models."""

    def __init__(self, head: NeuralHead) -> None:
        self._head = head
        self.mean = head.identity_prior.mean[None]
        self._expression = head.expression_prior.mean[None]
        none = self.mean.new_zeros(1)
        self._pose = Pose(torch.eye(3, device=none.device)[None].to(none), none.new_zeros(1, 3), none)

    def evaluate(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Give signed distances and unit normals."""
        if self._head.is_backward:
            found = measure(self._head, points[None], self.mean, self._expression, self._pose, None)
            return found.distance[0], found.normal[0]
        distance, gradient = self._head.identity.sdf_and_gradient(points[None], self.mean)
        return distance[0], functional.normalize(gradient[0], dim=1)

    def posed(
        self, points: Float[Tensor, "n 3"], normal: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
        """Move surface points with the mean expression."""
        field = self._head.expression
        if field is None or self._head.is_backward:
            return points, normal
        condition = self._head.condition(self.mean)
        offset, jacobian = field.deformation_and_jacobian(points[None], condition, self._expression)
        inverse = inverse_matrices(jacobian[0] + torch.eye(3, device=points.device).to(points))
        return points + offset[0], functional.normalize((normal[:, None] @ inverse)[:, 0], dim=1)


def _is_free(surface: _MeanHead, points: Float[Tensor, "n 3"], normal: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
    free = torch.ones(len(points), dtype=torch.bool, device=points.device)
    for step in _WAY_OUT:
        distance, _ = surface.evaluate(points + step * normal)
        free &= distance > 0.25 * min(step, 0.04)
    return free
