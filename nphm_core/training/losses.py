"""The terms of both stages' losses, as NPHM has them (METHOD 6.1 and 6.2), each by its name, and their weighted sum.

Every term is first a mean over the points of a subject or scan, then over the batch. With the same number of points for
all that is the mean over all points; where a subject lacks a group of samples, it is over what there is, and a batch
that is split over processes has the same loss as the whole. Lengths are in canonical units.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nphm_core.config import TrainExpressionConfig, TrainIdentityConfig
from nphm_core.models.dispatch import is_network_fused
from nphm_core.models.expression_field import ExpressionField
from nphm_core.models.identity_field import N_PAIRS, EnsembleField, IdentityField
from nphm_core.training.pairs import PairBatch
from nphm_core.training.samples import IdentityBatch

_MAX_REST_NORMAL_ERROR = 0.75
_SPACE_SHARPNESS = 10.0
_SPACE_RANGE = 1.25
"""Half the edge of the cube, in canonical units, in which points without a correspondence are drawn."""


class _Terms:
    """What the terms of both stages share."""

    def named(self) -> dict[str, Tensor]:
        """Give all terms and the total by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True)
class IdentityTerms(_Terms):
    """Terms of the first stage, unweighted."""

    surface: Float[Tensor, ""]
    """Mean |sdf| on the surface."""
    normals: Float[Tensor, ""]
    """Distance of the gradient from the normal; off the face at most 0.75, and half of it."""
    eikonal: Float[Tensor, ""]
    """Mean distance of the gradient's length from one, at all points."""
    space: Float[Tensor, ""]
    """Mean exp(-10 |sdf|) at far points."""
    codes: Float[Tensor, ""]
    """Mean squared length of the identity codes."""
    anchors: Float[Tensor, ""]
    """Mean squared error of the predicted anchors, over coordinates."""
    symmetry: Float[Tensor, ""]
    """Mean distance between the local codes of a mirrored pair; 0 for a field without local codes."""
    distance: Float[Tensor, ""]
    """Mean |sdf - stored sdf| at trusted near and far points; 0 where its weight is 0."""
    total: Float[Tensor, ""]


@dataclass(frozen=True)
class ExpressionTerms(_Terms):
    """Terms of the second stage, unweighted."""

    pairs: Float[Tensor, ""]
    """Mean squared error of corresponding points, over coordinates, weighted by trust."""
    codes: Float[Tensor, ""]
    """Mean squared length of the expression codes."""
    zero: Float[Tensor, ""]
    """Mean squared deformation of points in space, over coordinates."""
    total: Float[Tensor, ""]


def identity_terms(
    field: IdentityField,
    batch: IdentityBatch,
    code: Float[Tensor, "n_subjects n_code"],
    settings: TrainIdentityConfig,
) -> IdentityTerms:
    """Evaluate the field once at all points, and give the terms; differentiable by weights and codes."""
    n_surface, n_far = batch.sizes.surface, batch.sizes.far
    # A field with ambient coordinates is trained where they are zero.
    shape = (*batch.points.shape[:2], field.n_ambient)
    ambient = batch.points.new_zeros(shape) if field.n_ambient else None
    sdf, gradient = field.sdf_and_gradient(batch.points, code, ambient)
    gradient = gradient[..., :3]
    present = batch.present.to(sdf.dtype)
    length = sdf.abs()
    first_far = length.shape[1] - n_far
    terms = {
        "surface": _mean(length[:, :n_surface], present[:, :n_surface]),
        "normals": _mean(_normal_errors(gradient[:, :n_surface], batch), present[:, :n_surface]),
        "eikonal": _mean((gradient.norm(dim=2) - 1).abs(), present),
        "space": _mean((-_SPACE_SHARPNESS * length[:, first_far:]).exp(), present[:, first_far:]),
        "codes": code.square().sum(dim=1).mean(),
        "anchors": (field.anchors(code) - batch.anchors).square().mean(),
        "symmetry": _pair_distance(field, code),
        "distance": _distance_errors(sdf, batch, settings.weight_distance),
    }
    return IdentityTerms(**terms, total=_weighted(terms, settings))


def expression_terms(
    field: ExpressionField,
    batch: PairBatch,
    identity_code: Float[Tensor, "n_scans n_identity"],
    anchors: Float[Tensor, "n_scans 39 3"],
    expression_code: Float[Tensor, "n_scans n_expression"],
    space: Float[Tensor, "n_scans n_space 3"],
    condition_noise: Float[Tensor, "n_scans n_condition"],
    settings: TrainExpressionConfig,
) -> ExpressionTerms:
    """Evaluate the deformation once at all points, and give the terms; differentiable by weights and codes.

    `space` are points without a correspondence. A backward field is given the pairs the other way round; its ambient
    coordinates are held at zero as if they were further coordinates of the point, since that is where the first stage
    trained the identity field.
    """
    condition = field.condition(identity_code, anchors) + condition_noise
    source, target = batch.canonical, batch.posed
    if field.is_backward:
        source, target = target, source
    points = torch.cat([source, space], dim=1)
    values = field.values(points, condition, expression_code)
    if is_network_fused(field, points):
        return _expression_terms_by_kernel(values, expression_code, (source, target, batch.weight), settings)
    offset, n_pairs = values[..., :3], source.shape[1]
    error = torch.cat([source + offset[:, :n_pairs] - target, values[:, :n_pairs, 3:]], dim=2).square().mean(dim=2)
    terms = {
        "pairs": _mean(error, batch.weight),
        "codes": expression_code.square().sum(dim=1).mean(),
        "zero": _mean(offset[:, n_pairs:].square().mean(dim=2), torch.ones_like(offset[:, n_pairs:, 0])),
    }
    return ExpressionTerms(**terms, total=_weighted(terms, settings))


def _expression_terms_by_kernel(
    values: Tensor, expression_code: Tensor, pairs: tuple[Tensor, Tensor, Tensor], settings: TrainExpressionConfig
) -> ExpressionTerms:
    from nphm_core.training.step_kernels import PointTerms, TermWeights

    weights = TermWeights(settings.weight_pairs, settings.weight_codes, settings.weight_zero)
    found = PointTerms.apply(values, expression_code, *pairs, weights)
    return ExpressionTerms(found[0], found[1], found[2], found[3])


def points_in_space(fraction: Float[Tensor, "n_scans n_space 3"]) -> Float[Tensor, "n_scans n_space 3"]:
    """Turn random numbers in [0, 1) into points of the cube in which no deformation is wanted."""
    return (fraction - 0.5) * (2 * _SPACE_RANGE)


def _weighted(terms: dict[str, Tensor], settings: TrainIdentityConfig | TrainExpressionConfig) -> Float[Tensor, ""]:
    weights = {name: getattr(settings, f"weight_{name}") for name in terms}
    return torch.stack([weights[name] * term for name, term in terms.items() if weights[name]]).sum()


def _mean(values: Float[Tensor, "n_rows n_points"], weights: Float[Tensor, "n_rows n_points"]) -> Float[Tensor, ""]:
    """Mean over each row's points by weight, then over the rows; a row without any weight counts as zero."""
    total = weights.sum(dim=1)
    return ((values * weights).sum(dim=1) / torch.where(total > 0, total, 1)).mean()


def _normal_errors(gradient: Float[Tensor, "n_subjects n_surface 3"], batch: IdentityBatch) -> Tensor:
    error = (gradient - batch.normals).norm(dim=2)
    n_face = batch.sizes.face
    return torch.cat([error[:, :n_face], error[:, n_face:].clamp_max(_MAX_REST_NORMAL_ERROR) / 2], dim=1)


def _pair_distance(field: IdentityField, code: Float[Tensor, "n_subjects n_code"]) -> Float[Tensor, ""]:
    if not isinstance(field, EnsembleField):
        return code.new_zeros(())
    paired = field.split_code(code)[1][:, : 2 * N_PAIRS]
    return (paired[:, ::2] - paired[:, 1::2]).norm(dim=2).mean()


def _distance_errors(
    sdf: Float[Tensor, "n_subjects n_points"], batch: IdentityBatch, weight: float
) -> Float[Tensor, ""]:
    if not weight:
        return sdf.new_zeros(())
    trusted: Bool[Tensor, "n_subjects n_off_surface"] = batch.trusted
    return _mean((sdf[:, batch.sizes.surface :] - batch.sdf).abs(), trusted.to(sdf.dtype))
