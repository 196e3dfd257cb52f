"""A head model that is known exactly: a lopsided blob with a nose, whose codes make bumps, and which a wave bends."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from nphm_core.config import ExpressionModelConfig
from nphm_core.models.expression_field import ExpressionField
from nphm_core.models.identity_field import N_ANCHORS, IdentityField
from nphm_core.models.neural_head import NeuralHead

N_IDENTITY, N_EXPRESSION = 5, 2
_CENTRES = torch.tensor(
    [[0.0, 0.1, 1.0], [0.6, 0.6, 0.5], [-0.7, 0.3, 0.6], [0.1, -0.9, 0.4], [0.9, -0.1, 0.2], [-0.5, -0.5, 0.7]]
)


class BlobIdentity(IdentityField):
    """Star-shaped: the radius in a direction is a sum of bumps."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.n_code, self.n_ambient = N_IDENTITY, 0
        centres = nn.functional.normalize(_CENTRES, dim=1)
        self.register_buffer("centres", centres)
        generator = torch.Generator().manual_seed(0)
        directions = nn.functional.normalize(torch.randn(N_ANCHORS, 3, generator=generator), dim=1)
        self.register_buffer("directions", directions)
        self.register_buffer("mean_anchors", 0.35 * directions)

    def radius(self, directions: Tensor, code: Tensor) -> Tensor:
        bumps = (6 * (directions @ self.centres.T - 1)).exp()
        nose = 0.5 * (40 * (directions @ self.centres[0] - 1)).exp()
        size = 0.32 + 0.06 * directions[..., 1] + 0.04 * directions[..., 0] * directions[..., 1]
        return size + 0.2 * nose + 0.04 * (bumps[..., 1:] * code[:, None]).sum(-1)

    def anchors(self, code: Tensor) -> Tensor:
        directions = self.directions.expand(len(code), -1, -1)
        return directions * self.radius(directions, code)[..., None]

    def sdf(self, points: Tensor, code: Tensor, ambient: Tensor | None = None) -> Tensor:
        length = points.norm(dim=-1).clamp_min(1e-4)
        return length - self.radius(points / length[..., None], code)

    def sdf_and_gradient(self, points: Tensor, code: Tensor, ambient: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = points if points.requires_grad else points.detach().requires_grad_(True)
            sdf = self.sdf(at, code)
            (gradient,) = torch.autograd.grad(sdf.sum(), at, create_graph=True)
        return sdf, gradient


class WaveExpression(ExpressionField):
    """Bends the lower half sideways and the whole along z."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.settings = ExpressionModelConfig(n_expression=N_EXPRESSION, n_condition=1)
        self.n_code, self.n_condition, self.n_ambient = N_EXPRESSION, 1, 0

    def condition(self, identity_code: Tensor, anchors: Tensor) -> Tensor:
        return 0.1 * identity_code[:, :1]

    def at(self, condition: Tensor, expression_code: Tensor) -> SimpleNamespace:
        return SimpleNamespace(
            deformation=lambda points: self.deformation(points, condition, expression_code),
            deformation_and_jacobian=lambda points: self.deformation_and_jacobian(points, condition, expression_code),
        )

    def deformation(self, points: Tensor, condition: Tensor, expression_code: Tensor) -> Tensor:
        code = (1 + condition) * expression_code
        x = 0.04 * code[:, :1] * torch.sin(8 * points[..., 1])
        z = 0.04 * code[:, 1:] * torch.cos(7 * points[..., 0])
        return torch.stack([x, torch.zeros_like(x), z], dim=-1)

    def deformation_and_jacobian(
        self, points: Tensor, condition: Tensor, expression_code: Tensor
    ) -> tuple[Tensor, Tensor]:
        code = (1 + condition) * expression_code
        jacobian = points.new_zeros(*points.shape, 3)
        jacobian[..., 0, 1] = 0.32 * code[:, :1] * torch.cos(8 * points[..., 1])
        jacobian[..., 2, 0] = -0.28 * code[:, 1:] * torch.sin(7 * points[..., 0])
        return self.deformation(points, condition, expression_code), jacobian


def blob_head(*, with_expression: bool = True, n_codes: int = 30) -> NeuralHead:
    """Make the model; its training codes are drawn from unit Gaussians."""
    generator = torch.Generator().manual_seed(4)
    expression_codes = torch.randn(n_codes, N_EXPRESSION, generator=generator)
    return NeuralHead(
        BlobIdentity(),
        WaveExpression() if with_expression else None,
        identity_codes=torch.randn(n_codes, N_IDENTITY, generator=generator),
        expression_codes=expression_codes if with_expression else None,
    )


def surface_points(
    head: NeuralHead, identity: Tensor, expression: Tensor | None, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """Give posed points in directions from the middle, and their outward unit normals."""
    field = head.identity
    assert isinstance(field, BlobIdentity)
    directions = nn.functional.normalize(directions, dim=1)[None]
    points = directions * field.radius(directions, identity)[..., None]
    _, gradient = field.sdf_and_gradient(points, identity)
    if expression is not None:
        assert head.expression is not None
        offset, jacobian = head.expression.deformation_and_jacobian(points, head.condition(identity), expression)
        points = points + offset
        gradient = torch.linalg.solve((torch.eye(3) + jacobian).mT, gradient[..., None])[..., 0]
    return points[0].detach(), nn.functional.normalize(gradient[0].detach(), dim=1)
