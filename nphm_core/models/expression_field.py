"""The expression field: how a point of a head moves with an expression.

Forward (NPHM): posed = canonical + deformation(canonical). Backward (MonoNPHM): canonical = posed + deformation(posed),
with ambient coordinates beside it, by which lips can part. One network of the point, the compressed identity and the
expression code. Identity is compressed linearly from the identity code and the predicted anchors. Canonical units.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nphm_core.config import ExpressionModelConfig
from nphm_core.models.dispatch import fused_network_values, is_network_fused
from nphm_core.models.identity_field import N_ANCHORS
from nphm_core.models.networks import FoldedCodes, RowGroups, StackedNetworks


@dataclass(frozen=True)
class Warp:
    """What the field says of points."""

    offset: Float[Tensor, "n_heads n_points 3"]
    ambient: Float[Tensor, "n_heads n_points n_ambient"]


@dataclass(frozen=True)
class FixedDeformation:
    """The field of heads whose codes stay the same, asked many times: what codes add is computed once."""

    networks: StackedNetworks
    codes: FoldedCodes

    def values(self, points: Float[Tensor, "n_heads n_points 3"]) -> Float[Tensor, "n_heads n_points n_out"]:
        """Give what the network says: offsets, then ambient coordinates."""
        rows = points.flatten(0, 1)
        values = self.networks.values(rows, self.codes, RowGroups((0, len(rows)), None))
        return values.unflatten(0, points.shape[:2])

    def deformation(self, points: Float[Tensor, "n_heads n_points 3"]) -> Float[Tensor, "n_heads n_points 3"]:
        """Give offsets."""
        return self.values(points)[..., :3]

    def deformation_and_jacobian(
        self, points: Float[Tensor, "n_heads n_points 3"]
    ) -> tuple[Float[Tensor, "n_heads n_points 3"], Float[Tensor, "n_heads n_points 3 3"]]:
        """Give offsets and their derivatives: entry (i, j) is that of offset i by coordinate j."""
        rows = points.flatten(0, 1)
        values, jacobian = self.networks.values_and_jacobian(rows, self.codes, RowGroups((0, len(rows)), None))
        shape = points.shape[:2]
        return values[:, :3].unflatten(0, shape), jacobian[:, :3].unflatten(0, shape)


class ExpressionField(nn.Module):
    """Moves points of heads."""

    def __init__(self, settings: ExpressionModelConfig, n_identity: int) -> None:
        """Make a field with random weights (PyTorch's global generator) for identity codes of a length."""
        super().__init__()
        self.settings = settings
        self.n_code, self.n_condition = settings.n_expression, settings.n_condition
        self.n_ambient = settings.n_ambient if settings.direction == "backward" else 0
        self.compressor = nn.Linear(n_identity + 3 * N_ANCHORS, settings.n_condition)
        n_code = self.n_condition + self.n_code
        self.networks = StackedNetworks(1, 3, n_code, 3 + self.n_ambient, settings.n_hidden, settings.n_layers)

    @property
    def is_backward(self) -> bool:
        """Whether it goes from posed to canonical space."""
        return self.settings.direction == "backward"

    def condition(
        self, identity_code: Float[Tensor, "n_heads n_identity"], anchors: Float[Tensor, "n_heads 39 3"]
    ) -> Float[Tensor, "n_heads n_condition"]:
        """Compress the identity."""
        return self.compressor(torch.cat([identity_code, anchors.flatten(1)], dim=1))

    def warp(
        self,
        points: Float[Tensor, "n_heads n_points 3"],
        condition: Float[Tensor, "n_heads n_condition"],
        expression_code: Float[Tensor, "n_heads n_code"],
    ) -> Warp:
        """Give offsets and ambient coordinates."""
        values = self.values(points, condition, expression_code)
        return Warp(values[..., :3], values[..., 3:])

    def values(
        self,
        points: Float[Tensor, "n_heads n_points 3"],
        condition: Float[Tensor, "n_heads n_condition"],
        expression_code: Float[Tensor, "n_heads n_code"],
    ) -> Float[Tensor, "n_heads n_points n_out"]:
        """Give what the network says: offsets, then ambient coordinates."""
        if is_network_fused(self, points):
            return fused_network_values(self.networks, points, torch.cat([condition, expression_code], dim=1))
        return self.at(condition, expression_code).values(points)

    def deformation(
        self,
        points: Float[Tensor, "n_heads n_points 3"],
        condition: Float[Tensor, "n_heads n_condition"],
        expression_code: Float[Tensor, "n_heads n_code"],
    ) -> Float[Tensor, "n_heads n_points 3"]:
        """Give offsets."""
        return self.warp(points, condition, expression_code).offset

    def deformation_and_jacobian(
        self,
        points: Float[Tensor, "n_heads n_points 3"],
        condition: Float[Tensor, "n_heads n_condition"],
        expression_code: Float[Tensor, "n_heads n_code"],
    ) -> tuple[Float[Tensor, "n_heads n_points 3"], Float[Tensor, "n_heads n_points 3 3"]]:
        """Give offsets and their derivatives: entry (i, j) is that of offset i by coordinate j."""
        return self.at(condition, expression_code).deformation_and_jacobian(points)

    def at(
        self, condition: Float[Tensor, "n_heads n_condition"], expression_code: Float[Tensor, "n_heads n_code"]
    ) -> FixedDeformation:
        """Fix the codes."""
        codes = torch.cat([condition, expression_code], dim=1)
        one = torch.zeros(1, dtype=torch.long, device=codes.device)
        return FixedDeformation(self.networks, self.networks.fold(codes[:, None], one))
