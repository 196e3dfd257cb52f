"""The energy of a neural head's fit to observed points, and its normal equations, for many subjects at once.

The energy is twice a negative log posterior, as that of the linear head: squared distances of points to the posed
surface, in units of their own spread, under a Geman-McClure kernel; the disagreement of normals; the distances of
anchors; and the squared Mahalanobis distances of the codes from their Gaussian priors. What a model cannot express is
smooth, so neighbouring points err together and all points of a scan count as a limited number of measurements.

A normal disagrees in two directions; each point has one of them, drawn at random, which halves the cost and nothing
else. Points without a canonical point, or where the surface faces the other way, pay what the kernel takes for the
farthest of all and pull at nothing.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nphm_core.config import FitConfig
from nphm_core.fitting.code_priors import CodePriors
from nphm_core.fitting.measured_points import Pose, anchor_offsets, find_roots, measure
from nphm_core.fitting.roots import Roots
from nphm_core.fitting.variables import N_POSE, Bases, Clouds, Variables
from nphm_core.models.neural_head import NeuralHead
from nphm_core.spaces import MM_PER_CANONICAL_UNIT

NORMAL_STD = 0.25
_NORMAL_KERNEL = 0.5
_MIN_NORMAL_COS = 0.2
_ANCHOR_STD_MM = 3.0
_ANCHOR_KERNEL_MM = 15.0
_N_INDEPENDENT_ANCHORS = 20.0
_UNKNOWN_SPREAD_MM = 50.0
# Heads that are evaluated together with a code of their own each; bounds the memory.
_CHUNK_CPU, _CHUNK_GPU = 1024, 16384


@dataclass(frozen=True)
class Kernel:
    """How a step looks at the points."""

    scale_mm: float
    std_mm: Float[Tensor, " n_rows"]
    """Spread of each row's points around the surface."""


@dataclass(frozen=True)
class Evaluation:
    """Residuals of all points at some variables."""

    roots: Roots | None
    distance_mm: Float[Tensor, "n_rows n_points"]
    tilt: Float[Tensor, "n_rows n_points"]
    """Cosine between the surface's normal and the point's tangent."""
    agrees: Bool[Tensor, "n_rows n_points"]
    """Points that have a canonical point and whose surface faces the right way."""
    anchors_mm: Float[Tensor, "n_rows 39 3"]


class HeadEnergy:
    """The energy of subjects' clouds under a model."""

    def __init__(self, head: NeuralHead, clouds: Clouds, priors: CodePriors, settings: FitConfig) -> None:
        """Hold all that stays the same."""
        self.head, self.clouds, self.priors, self.settings = head, clouds, priors, settings
        self.n_evaluations = 0
        """Of canonical points and residuals, so far."""
        n = clouds.weights.sum(dim=1)
        self._surface_weight = (settings.n_independent / n).clamp_max(1.0)
        n_anchors = clouds.anchor_weights.sum(dim=1).clamp_min(1.0)
        independent = (_N_INDEPENDENT_ANCHORS / n_anchors).clamp_max(1.0)
        self._anchor_weight = settings.weight_landmarks * independent / _ANCHOR_STD_MM**2
        self._has_anchors = bool((clouds.anchor_weights > 0).any())
        self._anchor_ids = torch.arange(clouds.anchors.shape[1], device=n.device).expand(len(n), -1)

    @torch.no_grad()
    def evaluate(
        self,
        variables: Variables,
        start: Roots | Float[Tensor, "n_rows n_points 3"] | None = None,
        *,
        restart: bool = False,
    ) -> Evaluation:
        """Find canonical points, from those of nearby variables or from guesses if given; measure all residuals."""
        self.n_evaluations += 1
        clouds = self.clouds
        pose = Pose(variables.rotation, variables.translation, variables.log_scale)
        roots = find_roots(
            self.head,
            pose.apply(clouds.points),
            variables.identity[clouds.subject],
            variables.expression,
            n_steps=self.settings.root_steps,
            tolerance=self.settings.root_tolerance_mm / MM_PER_CANONICAL_UNIT,
            start=start,
            restart=restart,
        )
        return self.measured(variables, roots)

    @torch.no_grad()
    def guesses(
        self, variables: Variables, other: Clouds, found: Evaluation
    ) -> Float[Tensor, "n_rows n_points 3"] | None:
        """Guess canonical points from those that were found for other points of the same scans, by the nearest one."""
        if found.roots is None:
            return None
        pose = Pose(variables.rotation, variables.translation, variables.log_scale)
        here, there = pose.apply(self.clouds.points), pose.apply(other.points)
        known = found.roots.converged & (other.weights > 0)
        nearest = torch.cdist(here, there).masked_fill(~known[:, None], torch.inf).argmin(dim=2)
        offset = torch.where(known[..., None], found.roots.points - there, 0.0)
        return here + offset.gather(1, nearest[..., None].expand(-1, -1, 3))

    def lacks_roots(self, found: Evaluation) -> bool:
        """Tell whether points have no canonical point yet."""
        return found.roots is not None and not bool((found.roots.converged | (self.clouds.weights == 0)).all())

    def measured(self, variables: Variables, roots: Roots | None) -> Evaluation:
        """Measure all residuals at known canonical points; differentiable by the variables."""
        clouds = self.clouds
        pose = Pose(variables.rotation, variables.translation, variables.log_scale)
        identity = variables.identity[clouds.subject]
        found = measure(self.head, clouds.points, identity, variables.expression, pose, roots)
        has_normal = clouds.normals.abs().sum(dim=2) > 0
        agrees = ((found.normal * clouds.normals).sum(dim=2) > _MIN_NORMAL_COS) | ~has_normal
        if roots is not None:
            agrees = agrees & roots.converged
        anchors = torch.zeros_like(clouds.anchors)
        if self._has_anchors:
            anchors = anchor_offsets(self.head, clouds.anchors, identity, variables.expression, pose, self._anchor_ids)
        return Evaluation(
            roots,
            MM_PER_CANONICAL_UNIT * found.distance,
            (found.normal * clouds.tangents).sum(dim=2),
            agrees & torch.isfinite(found.distance),
            MM_PER_CANONICAL_UNIT * anchors,
        )

    def spread_mm(self, found: Evaluation) -> Float[Tensor, " n_rows"]:
        """Give a robust standard deviation of each row's distances."""
        used = found.agrees & (self.clouds.weights > 0)
        median = torch.where(used, found.distance_mm.abs(), torch.nan).nanmedian(dim=1).values
        spread = 1.4826 * torch.nan_to_num(median, nan=_UNKNOWN_SPREAD_MM)
        return spread.clamp_min(self.settings.min_spread_mm)

    def value(self, variables: Variables, found: Evaluation, kernel: Kernel) -> Float[Tensor, " n_subjects"]:
        """Give the energy of each subject."""
        clouds = self.clouds
        outlier = kernel.scale_mm**2
        loss = torch.where(found.agrees, _geman_mcclure(found.distance_mm.square(), kernel.scale_mm), outlier)
        tilt = torch.where(found.agrees, _geman_mcclure(found.tilt.square(), _NORMAL_KERNEL), _NORMAL_KERNEL**2)
        point = loss / kernel.std_mm.square()[:, None] + self._normal_weight() * tilt
        rows = self._surface_weight * (clouds.weights * point).sum(dim=1)
        anchors = _geman_mcclure(found.anchors_mm.square().sum(dim=2), _ANCHOR_KERNEL_MM)
        rows = rows + self._anchor_weight * (clouds.anchor_weights * anchors).sum(dim=1)
        rows = rows + ((variables.log_scale - clouds.log_scale) / clouds.log_scale_std).square()
        rows = rows + self.priors.expression.value(variables.expression)
        out = self.priors.identity.value(variables.identity)
        return out.index_add(0, clouds.subject, rows)

    def normal_equations(
        self, variables: Variables, found: Evaluation, kernel: Kernel, bases: Bases
    ) -> tuple[Float[Tensor, "n_subjects m m"], Float[Tensor, "n_subjects m"]]:
        """Give the Gauss-Newton Hessians and gradients in steps along the bases.

        A subject's unknowns are its identity, then expression and pose of each of its scans; scans that it lacks have
        ones on the diagonal.
        """
        clouds, n_identity = self.clouds, bases.identity.size
        blocks, slopes = self._row_equations(variables, found, kernel, bases)
        size = bases.size(clouds.n_slots)
        hessian = blocks.new_zeros(clouds.n_subjects, size, size)
        gradient = blocks.new_zeros(clouds.n_subjects, size)
        for slot in range(clouds.n_slots):
            rows = (clouds.slot == slot).nonzero()[:, 0]
            own = n_identity + bases.n_own * slot + torch.arange(bases.n_own, device=rows.device)
            index = torch.cat([torch.arange(n_identity, device=rows.device), own])
            subject = clouds.subject[rows]
            hessian[subject[:, None, None], index[:, None], index[None]] += blocks[rows]
            gradient[subject[:, None], index[None]] += slopes[rows]
        prior, slope = self.priors.identity.along(variables.identity, bases.identity)
        hessian[:, :n_identity, :n_identity] += prior
        gradient[:, :n_identity] += slope
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        diagonal += (diagonal == 0).to(diagonal.dtype)
        return hessian, gradient

    def _row_equations(
        self, variables: Variables, found: Evaluation, kernel: Kernel, bases: Bases
    ) -> tuple[Float[Tensor, "n_rows d d"], Float[Tensor, "n_rows d"]]:
        """Give each row's part: identity, expression, pose; in float64."""
        clouds = self.clouds
        n_identity, n_expression = bases.identity.size, bases.expression.size
        by_distance, by_tilt = self._point_jacobians(variables, found, bases)
        used = clouds.weights * found.agrees
        weight = used * self._surface_weight[:, None]
        surface = weight * _kernel_slope(found.distance_mm.square(), kernel.scale_mm) / kernel.std_mm.square()[:, None]
        block, slope = _products(by_distance, found.distance_mm, surface)
        tilt = weight * self._normal_weight() * _kernel_slope(found.tilt.square(), _NORMAL_KERNEL)
        parts = [_products(by_tilt, found.tilt, tilt)] if self._uses_normals() else []
        if self._has_anchors:
            by_anchor = self._anchor_jacobian(variables, bases)
            slack = _kernel_slope(found.anchors_mm.square().sum(dim=2), _ANCHOR_KERNEL_MM)
            own = (self._anchor_weight[:, None] * clouds.anchor_weights * slack)[..., None].expand(-1, -1, 3)
            parts.append(_products(by_anchor, found.anchors_mm.flatten(1), own.flatten(1)))
        for more, also in parts:
            block, slope = block + more, slope + also
        block, slope = block.double(), slope.double()
        prior, pull = self.priors.expression.along(variables.expression, bases.expression)
        along = slice(n_identity, n_identity + n_expression)
        block[:, along, along] += prior
        slope[:, along] += pull
        block[:, -1, -1] += clouds.log_scale_std.double() ** -2
        slope[:, -1] += (variables.log_scale - clouds.log_scale).double() / clouds.log_scale_std.double() ** 2
        return block, slope

    def _point_jacobians(
        self, variables: Variables, found: Evaluation, bases: Bases
    ) -> tuple[Float[Tensor, "n_rows n_points d"], Float[Tensor, "n_rows n_points d"]]:
        clouds = self.clouds
        n_rows, n_points = clouds.weights.shape
        row = torch.arange(n_rows, device=clouds.subject.device).repeat_interleave(n_points)
        flat = None if found.roots is None else _flat(found.roots)
        chunk = _CHUNK_GPU if clouds.points.is_cuda else _CHUNK_CPU
        out: list[tuple[Tensor, Tensor]] = []
        for ids in torch.arange(len(row), device=row.device).split(chunk):
            leaves = self._leaves(variables, row[ids])
            identity, expression, step = leaves
            roots = None if flat is None else _part(flat, ids)
            pose = _pose_of(variables, row[ids]).moved(step)
            points = clouds.points.flatten(0, 1)[ids][:, None]
            got = measure(self.head, points, identity, expression, pose, roots)
            distance = self._along(got.distance.sum(), leaves, bases, keep=self._uses_normals())
            tilt = distance
            if self._uses_normals():
                cosine = (got.normal[:, 0] * clouds.tangents.flatten(0, 1)[ids]).sum()
                tilt = self._along(cosine, leaves, bases)
            out.append((MM_PER_CANONICAL_UNIT * distance, tilt))
        first, second = (torch.cat(parts).unflatten(0, (n_rows, n_points)) for parts in zip(*out, strict=True))
        return first, second

    def _anchor_jacobian(self, variables: Variables, bases: Bases) -> Float[Tensor, "n_rows 117 d"]:
        clouds = self.clouds
        n_rows, n_anchors = clouds.anchor_weights.shape
        row = torch.arange(n_rows, device=clouds.subject.device).repeat_interleave(n_anchors)
        leaves = self._leaves(variables, row)
        identity, expression, step = leaves
        pose = _pose_of(variables, row).moved(step)
        observed, ids = clouds.anchors.flatten(0, 1)[:, None], self._anchor_ids.flatten()[:, None]
        offset = anchor_offsets(self.head, observed, identity, expression, pose, ids)
        axes = [self._along(offset[:, 0, k].sum(), leaves, bases, keep=k < 2) for k in range(3)]
        return MM_PER_CANONICAL_UNIT * torch.stack(axes, dim=1).unflatten(0, (n_rows, n_anchors)).flatten(1, 2)

    def _leaves(self, variables: Variables, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give a code and a pose step for each head, to differentiate by."""
        identity = variables.identity[self.clouds.subject[row]].detach().requires_grad_(True)
        expression = variables.expression[row].detach().requires_grad_(True)
        step = identity.new_zeros(len(row), N_POSE).requires_grad_(True)
        return identity, expression, step

    def _along(
        self, total: Tensor, leaves: tuple[Tensor, Tensor, Tensor], bases: Bases, *, keep: bool = False
    ) -> Float[Tensor, "n_heads d"]:
        slopes = torch.autograd.grad(total, leaves, retain_graph=keep, allow_unused=True)
        identity, expression, step = (
            torch.zeros_like(leaf) if slope is None else slope for slope, leaf in zip(slopes, leaves, strict=True)
        )
        return torch.cat([bases.identity.along(identity), bases.expression.along(expression), step], dim=1)

    def _normal_weight(self) -> float:
        return self.settings.weight_normals / NORMAL_STD**2

    def _uses_normals(self) -> bool:
        return self.settings.weight_normals > 0


def _pose_of(variables: Variables, row: Tensor) -> Pose:
    return Pose(variables.rotation[row], variables.translation[row], variables.log_scale[row])


def _flat(roots: Roots) -> Roots:
    return replace(
        roots,
        points=roots.points.flatten(0, 1)[:, None],
        inverse_jacobian=roots.inverse_jacobian.flatten(0, 1)[:, None],
        distance=roots.distance.flatten()[:, None],
        converged=roots.converged.flatten()[:, None],
    )


def _part(roots: Roots, ids: Tensor) -> Roots:
    return Roots(roots.points[ids], roots.inverse_jacobian[ids], roots.distance[ids], roots.converged[ids])


def _products(
    jacobian: Float[Tensor, "n_rows n d"], residual: Float[Tensor, "n_rows n"], weight: Float[Tensor, "n_rows n"]
) -> tuple[Float[Tensor, "n_rows d d"], Float[Tensor, "n_rows d"]]:
    used = weight > 0
    root = weight.sqrt()[..., None]
    # A point without a canonical point may hold anything.
    rows = torch.where(used[..., None], jacobian * root, 0.0)
    right = torch.where(used, residual * root[..., 0], 0.0)
    return rows.transpose(1, 2) @ rows, (rows.transpose(1, 2) @ right[..., None])[..., 0]


def _geman_mcclure(squared: Tensor, scale: float) -> Tensor:
    return squared / (1 + squared / scale**2)


def _kernel_slope(squared: Tensor, scale: float) -> Tensor:
    """Give the kernel's derivative by the squared residual: the weight of iterated least squares."""
    return (1 + squared / scale**2) ** -2
