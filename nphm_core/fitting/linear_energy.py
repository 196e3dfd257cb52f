"""The energy of a linear head's fit to observed points, and its normal equations.

The energy is twice a negative log posterior: squared distances from the points to the posed surface in units of their
own spread, under a Geman-McClure kernel, and the squared distances of the codes from their priors' means. Neighbouring
points err together, since what a linear model cannot express is smooth; so all points of a scan count as a limited
number of independent measurements. The spread is measured anew before each step: noisy points, or a head that the model
cannot express, leave more to the prior. Normals only reject matches: a term for their disagreement made this model's
fits of heads with relief and hair worse (1.00 in place of 0.89 mm on the face), as what it cannot express shows in
normals most.

A cloud is a scan's points, centred, in units of about one canonical unit, so that one set of thresholds in mm serves
scans of any unit. Residuals are turned into the canonical frame, where the components need no rotation.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nphm_core.config import FitConfig
from nphm_core.fitting.linear_surface import LinearSurface, SurfacePoints
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, Similarity
from nphm_core.template.rotations import cross_matrices, rotation_matrices

_TANGENTIAL = 0.1
_MIN_NORMAL_COS = 0.2
_UNKNOWN_SPREAD_MM = 50.0
_ANCHOR_STD_MM = 3.0
_ANCHOR_KERNEL_MM = 15.0
_N_INDEPENDENT_ANCHORS = 20.0
_MAX_TURN_RAD, _MAX_SHIFT, _MAX_LOG_SCALE = 0.3, 0.2, 0.15
_N_POSE = 7


@dataclass(frozen=True)
class Cloud:
    """Points of one scan, centred, in canonical size."""

    points: Float[ndarray, "n 3"]
    weights: Float[ndarray, " n"]
    normals: Float[ndarray, "n 3"]
    """Outward unit normals; zero where none is known."""
    anchors: Float[ndarray, "n_anchors 3"] | None
    """The model's anchors where the scan shows them; NaN rows where it does not."""
    scale: float
    """The expected scale of the pose."""
    log_scale_std: float
    """Standard deviation of its logarithm around that."""


@dataclass(frozen=True)
class Codes:
    """What is sought: one identity, an expression and a pose for each cloud."""

    identity: Float[ndarray, " n_identity"]
    expressions: tuple[Float[ndarray, " n_expression"], ...]
    poses: tuple[Similarity, ...]
    """From canonical space to each cloud."""


@dataclass(frozen=True)
class Matches:
    """Where the points of one cloud lie on the posed surface."""

    surface: SurfacePoints
    offset: Float[ndarray, "n 3"]
    """From the point to the surface, in the cloud's size and the canonical frame's directions."""
    distance_mm: Float[ndarray, " n"]
    agrees: Float[ndarray, " n"]
    """1 where the normals agree or none is known, else 0."""
    anchor_offset: Float[ndarray, "n_anchors 3"]
    """Likewise; zero where the scan does not show the anchor."""
    is_anchor: Float[ndarray, " n_anchors"]


@dataclass(frozen=True)
class Kernel:
    """How a step looks at the points."""

    scale_mm: float
    std_mm: tuple[float, ...]
    """Spread of each cloud's points around the surface."""


class LinearEnergy:
    """The energy of one subject's clouds."""

    def __init__(self, surface: LinearSurface, clouds: tuple[Cloud, ...], settings: FitConfig) -> None:
        """Hold the surface and the clouds."""
        self.surface, self.clouds, self.settings = surface, clouds, settings
        self.expression_mean = surface.head.expression_mean.astype(np.float64)

    def start(self, poses: tuple[Similarity, ...]) -> Codes:
        """Give the means of the priors, in given poses."""
        return Codes(np.zeros(self.surface.n_identity), (self.expression_mean,) * len(poses), poses)

    def match(self, codes: Codes) -> tuple[Matches, ...]:
        """Find the surface's points closest to those of each cloud."""
        return tuple(self._match_one(codes, k) for k in range(len(self.clouds)))

    def spread_mm(self, matches: tuple[Matches, ...]) -> tuple[float, ...]:
        """Give a robust standard deviation of the distances, of each cloud."""
        out = []
        for cloud, found in zip(self.clouds, matches, strict=True):
            used = found.distance_mm[(found.agrees > 0) & (cloud.weights > 0)]
            spread = 1.4826 * float(np.median(used)) if len(used) else _UNKNOWN_SPREAD_MM
            out.append(max(self.settings.min_spread_mm, spread))
        return tuple(out)

    def value(self, codes: Codes, matches: tuple[Matches, ...], kernel: Kernel) -> float:
        """Give the energy."""
        out = self.settings.weight_identity * float(codes.identity @ codes.identity)
        for k, found in enumerate(matches):
            expression = codes.expressions[k] - self.expression_mean
            out += self.settings.weight_expression * float(expression @ expression) + self._log_scale(codes, k)[0] ** 2
            loss = _geman_mcclure(found.distance_mm**2, kernel.scale_mm)
            loss = np.where(found.agrees > 0, loss, kernel.scale_mm**2) / kernel.std_mm[k] ** 2
            out += self._share(k) * float(self.clouds[k].weights @ loss)
            anchor_sq = (found.anchor_offset**2).sum(1) * MM_PER_CANONICAL_UNIT**2
            out += self._anchor_weight(found) * float(_geman_mcclure(anchor_sq, _ANCHOR_KERNEL_MM).sum())
        return out

    def normal_equations(
        self, codes: Codes, matches: tuple[Matches, ...], kernel: Kernel
    ) -> tuple[Float[ndarray, "m m"], Float[ndarray, " m"]]:
        """Give the Gauss-Newton Hessian and the gradient: identity, then expression and pose of each cloud."""
        n_identity, n_own = self.surface.n_identity, self.surface.n_expression + _N_POSE
        size = n_identity + n_own * len(matches)
        hessian, gradient = np.zeros((size, size)), np.zeros(size)
        for k, found in enumerate(matches):
            block, slope = self._normal_equations_one(codes, found, k, kernel)
            own = n_identity + n_own * k + np.arange(n_own)
            index = np.concatenate([np.arange(n_identity), own])
            hessian[np.ix_(index, index)] += block
            gradient[index] += slope
        own = np.concatenate([np.full(self.surface.n_expression, self.settings.weight_expression), np.zeros(_N_POSE)])
        prior = np.concatenate([np.full(n_identity, self.settings.weight_identity), *[own] * len(matches)])
        deviation = [np.concatenate([e - self.expression_mean, np.zeros(_N_POSE)]) for e in codes.expressions]
        gradient += prior * np.concatenate([codes.identity, *deviation])
        hessian[np.diag_indices(size)] += prior
        for k in range(len(matches)):
            last = n_identity + n_own * (k + 1) - 1
            offset, per_std = self._log_scale(codes, k)
            gradient[last] += offset * per_std
            hessian[last, last] += per_std**2
        return hessian, gradient

    def moved(self, codes: Codes, step: Float[ndarray, " m"]) -> Codes:
        """Take a step; large turns, shifts and scalings are cut."""
        n_identity, n_expression = self.surface.n_identity, self.surface.n_expression
        expressions, poses = [], []
        for k, own in enumerate(step[n_identity:].reshape(len(codes.poses), -1)):
            expressions.append(codes.expressions[k] + own[:n_expression])
            poses.append(_turned(codes.poses[k], own[n_expression:]))
        return replace(
            codes, identity=codes.identity + step[:n_identity], expressions=tuple(expressions), poses=tuple(poses)
        )

    def _match_one(self, codes: Codes, k: int) -> Matches:
        code, pose, cloud = np.concatenate([codes.identity, codes.expressions[k]]), codes.poses[k], self.clouds[k]
        points = pose.inverse().apply(cloud.points)
        found = self.surface.closest(self.surface.posed(code), points)
        offset = pose.scale * (found.point - points)
        has_normal = np.abs(cloud.normals).sum(1) > 0
        cosine = (found.normal * (cloud.normals @ pose.rotation)).sum(1)
        agrees = ((cosine > _MIN_NORMAL_COS) | ~has_normal).astype(np.float64)
        anchor_offset, is_anchor = np.zeros((0, 3)), np.zeros(0)
        if cloud.anchors is not None:
            is_anchor = np.isfinite(cloud.anchors).all(1).astype(np.float64)
            seen = pose.inverse().apply(np.nan_to_num(cloud.anchors))
            anchor_offset = pose.scale * is_anchor[:, None] * (self.surface.anchors(code) - seen)
        distance_mm = np.linalg.norm(offset, axis=1) * MM_PER_CANONICAL_UNIT
        return Matches(found, offset, distance_mm, agrees, anchor_offset, is_anchor)

    def _normal_equations_one(
        self, codes: Codes, found: Matches, k: int, kernel: Kernel
    ) -> tuple[Float[ndarray, "m m"], Float[ndarray, " m"]]:
        """Give one cloud's part: identity, expression, pose."""
        parts = [self._by_distance(codes.poses[k], found, k, kernel)]
        if found.is_anchor.any():
            parts.append(self._by_anchor(codes, found, k))
        return np.sum([h for h, _ in parts], axis=0), np.sum([g for _, g in parts], axis=0)

    def _by_distance(
        self, pose: Similarity, found: Matches, k: int, kernel: Kernel
    ) -> tuple[Float[ndarray, "m m"], Float[ndarray, " m"]]:
        weight = _geman_mcclure_weight(found.distance_mm**2, kernel.scale_mm) * found.agrees * self.clouds[k].weights
        weight = weight * self._share(k) * (MM_PER_CANONICAL_UNIT / kernel.std_mm[k]) ** 2
        used = np.flatnonzero(weight > 1e-6 * weight.max(initial=1e-300))
        surface = found.surface.part(used)
        columns = np.concatenate(
            [pose.scale * self.surface.jacobian(surface), _pose_columns(pose, surface.point)], axis=2, dtype=np.float32
        )
        root, normal = np.sqrt(weight[used]).astype(np.float32), surface.normal.astype(np.float32)
        rows = _whitened(columns, normal, root)
        residual = _whitened(found.offset[used, :, None].astype(np.float32), normal, root)[:, 0]
        return _products(rows, residual)

    def _by_anchor(self, codes: Codes, found: Matches, k: int) -> tuple[Float[ndarray, "m m"], Float[ndarray, " m"]]:
        pose, code = codes.poses[k], np.concatenate([codes.identity, codes.expressions[k]])
        more = _pose_columns(pose, self.surface.anchors(code))
        columns = np.concatenate([pose.scale * self.surface.anchor_basis, more], axis=2)
        anchor_sq = (found.anchor_offset**2).sum(1) * MM_PER_CANONICAL_UNIT**2
        weight = _geman_mcclure_weight(anchor_sq, _ANCHOR_KERNEL_MM) * found.is_anchor
        root = np.sqrt(weight * self._anchor_weight(found)) * MM_PER_CANONICAL_UNIT
        rows = (root[:, None, None] * columns).reshape(-1, columns.shape[2])
        return _products(rows, (root[:, None] * found.anchor_offset).ravel())

    def _log_scale(self, codes: Codes, k: int) -> tuple[float, float]:
        """Give the scale's deviation from what is known of it, in standard deviations, and its derivative."""
        cloud = self.clouds[k]
        return float(np.log(codes.poses[k].scale / cloud.scale)) / cloud.log_scale_std, 1 / cloud.log_scale_std

    def _share(self, k: int) -> float:
        """Give what one point counts: all of a cloud's are so many independent measurements, at most."""
        return min(1.0, self.settings.n_independent / max(1e-9, float(self.clouds[k].weights.sum())))

    def _anchor_weight(self, found: Matches) -> float:
        n = max(1.0, float(found.is_anchor.sum()))
        return self.settings.weight_landmarks * min(1.0, _N_INDEPENDENT_ANCHORS / n) / _ANCHOR_STD_MM**2


def _geman_mcclure(squared_mm2: Float[ndarray, " n"], scale_mm: float) -> Float[ndarray, " n"]:
    return squared_mm2 * scale_mm**2 / (squared_mm2 + scale_mm**2)


def _geman_mcclure_weight(squared_mm2: Float[ndarray, " n"], scale_mm: float) -> Float[ndarray, " n"]:
    return (scale_mm**2 / (squared_mm2 + scale_mm**2)) ** 2


def _products(rows: Float[ndarray, "n m"], residual: Float[ndarray, " n"]) -> tuple[ndarray, ndarray]:
    return (rows.T @ rows).astype(np.float64), (rows.T @ residual).astype(np.float64)


def _pose_columns(pose: Similarity, points: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3 7"]:
    """Give how posed points move, in the canonical frame, with a turn, a shift and the scale's logarithm.

    Turn and scaling are about the cloud's centre, so that they hardly shift it.
    """
    about = pose.scale * points + pose.rotation.T @ pose.translation
    shift = np.broadcast_to(np.eye(3), (len(points), 3, 3))
    return np.concatenate([-cross_matrices(about), shift, about[:, :, None]], axis=2)


def _turned(pose: Similarity, step: Float[ndarray, " 7"]) -> Similarity:
    """Apply a step in the canonical frame's directions, about the cloud's centre."""
    turn = rotation_matrices((step[:3] * _cut(step[:3], _MAX_TURN_RAD))[None])[0]
    growth = float(np.exp(np.clip(step[6], -_MAX_LOG_SCALE, _MAX_LOG_SCALE)))
    rotation = pose.rotation @ turn
    shift = step[3:6] * _cut(step[3:6], _MAX_SHIFT)
    about = pose.rotation.T @ pose.translation
    return Similarity(growth * pose.scale, rotation, pose.rotation @ (growth * turn @ about + shift))


def _cut(step: Float[ndarray, " 3"], longest: float) -> float:
    return min(1.0, longest / max(float(np.linalg.norm(step)), 1e-300))


def _whitened(
    columns: Float[ndarray, "n 3 k"], normal: Float[ndarray, "n 3"], root: Float[ndarray, " n"]
) -> Float[ndarray, "m k"]:
    """Weigh rows so that their squares count distances along the normal fully and along the surface a little."""
    small = np.float32(_TANGENTIAL)
    along = np.einsum("na,nak->nk", normal, columns)
    out = small * columns + (1 - small) * normal[:, :, None] * along[:, None, :]
    return (root[:, None, None] * out).reshape(-1, columns.shape[2])
