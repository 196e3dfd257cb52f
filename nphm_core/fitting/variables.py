"""What a fit of a neural head sees and seeks, for many subjects at once.

A row is one scan. Its points are a cloud: centred, in units of about one canonical unit, so that one set of thresholds
serves scans of any unit and float32 loses nothing. Rows of one subject share the identity code. Rows with fewer points
than others are filled up with points of weight zero.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

N_POSE = 7
"""Turn about the cloud's middle, shift, logarithm of the scale."""


@dataclass(frozen=True)
class Clouds:
    """The points of all rows; constant during a fit."""

    points: Float[Tensor, "n_rows n_points 3"]
    weights: Float[Tensor, "n_rows n_points"]
    """Zero where a row is filled up."""
    normals: Float[Tensor, "n_rows n_points 3"]
    """Outward; zero where none is known."""
    tangents: Float[Tensor, "n_rows n_points 3"]
    """A unit vector orthogonal to each normal; zero where there is none."""
    anchors: Float[Tensor, "n_rows 39 3"]
    anchor_weights: Float[Tensor, "n_rows 39"]
    """Zero where an anchor is not known."""
    subject: Int[Tensor, " n_rows"]
    slot: Int[Tensor, " n_rows"]
    """Which of its subject's scans a row is."""
    log_scale: Float[Tensor, " n_rows"]
    """Expected logarithm of the scale from cloud to canonical space."""
    log_scale_std: Float[Tensor, " n_rows"]

    @cached_property
    def n_subjects(self) -> int:
        """Number of subjects."""
        return int(self.subject.max()) + 1

    @cached_property
    def n_slots(self) -> int:
        """Largest number of scans of a subject."""
        return int(self.slot.max()) + 1


@dataclass(frozen=True)
class Variables:
    """What is sought."""

    identity: Float[Tensor, "n_subjects n_identity"]
    expression: Float[Tensor, "n_rows n_expression"]
    rotation: Float[Tensor, "n_rows 3 3"]
    """From the cloud to canonical space, as are the two that follow."""
    translation: Float[Tensor, "n_rows 3"]
    log_scale: Float[Tensor, " n_rows"]

    def where(self, subjects: Bool[Tensor, " n_subjects"], other: "Variables", clouds: Clouds) -> "Variables":
        """Give these for some subjects and others for the rest."""
        rows = subjects[clouds.subject]
        mixed = {}
        for field in fields(self):
            mask = subjects if field.name == "identity" else rows
            own, rest = getattr(self, field.name), getattr(other, field.name)
            mixed[field.name] = torch.where(mask.view(-1, *[1] * (own.dim() - 1)), own, rest)
        return replace(self, **mixed)


@dataclass(frozen=True)
class Basis:
    """Directions that codes may move in, as columns; `whole` has one for each number of a code, and multiplies none."""

    columns: Float[Tensor, "n_code k"] | None
    size: int

    @classmethod
    def of(cls, columns: Float[Tensor, "n_code k"]) -> "Basis":
        """Take columns; without any codes stay what they are."""
        return cls(columns, columns.shape[1])

    @classmethod
    def whole(cls, n_code: int) -> "Basis":
        """Leave all numbers free."""
        return cls(None, n_code)

    def along(self, slopes: Float[Tensor, "n n_code"]) -> Float[Tensor, "n k"]:
        """Give derivatives by steps along the directions from those by the numbers of a code."""
        return slopes if self.columns is None else slopes @ self.columns.to(slopes.dtype)

    def codes(self, steps: Float[Tensor, "n k"]) -> Float[Tensor, "n n_code"]:
        """Give what steps along the directions change of codes."""
        return steps if self.columns is None else steps @ self.columns.to(steps.dtype).T


@dataclass(frozen=True)
class Bases:
    """Directions that both codes may move in."""

    identity: Basis
    expression: Basis

    @property
    def n_own(self) -> int:
        """Unknowns of a row beside the identity."""
        return self.expression.size + N_POSE

    def size(self, n_slots: int) -> int:
        """Give the number of unknowns of a subject with that many scans."""
        return self.identity.size + n_slots * self.n_own


def moved(
    variables: Variables, step: Float[Tensor, "n_subjects n_unknowns"], bases: Bases, clouds: Clouds
) -> Variables:
    """Take a step; large turns, shifts and scalings are cut, since the energy is only near its place what it seems."""
    step = step.to(variables.identity.dtype)
    n_identity, n_expression = bases.identity.size, bases.expression.size
    own = step[:, n_identity:].unflatten(1, (-1, bases.n_own))[clouds.subject, clouds.slot]
    pose = own[:, n_expression:]
    return Variables(
        variables.identity + bases.identity.codes(step[:, :n_identity]),
        variables.expression + bases.expression.codes(own[:, :n_expression]),
        rotation_matrices(_cut(pose[:, :3], 0.3)) @ variables.rotation,
        variables.translation + _cut(pose[:, 3:6], 0.2),
        variables.log_scale + pose[:, 6].clamp(-0.15, 0.15),
    )


def rotation_matrices(rotvecs: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """Give the matrices of rotation vectors (Rodrigues); differentiable also at zero."""
    angle_sq = rotvecs.square().sum(dim=1)[:, None, None]
    angle = angle_sq.clamp_min(1e-12).sqrt()
    small = angle_sq < 1e-8
    sine = torch.where(small, 1 - angle_sq / 6, angle.sin() / angle)
    cosine = torch.where(small, 0.5 - angle_sq / 24, (1 - angle.cos()) / angle.square())
    cross = cross_matrices(rotvecs)
    eye = torch.eye(3, dtype=rotvecs.dtype, device=rotvecs.device)
    return eye + sine * cross + cosine * (cross @ cross)


def cross_matrices(vectors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """Give the matrices [v]x with [v]x w = v x w."""
    x, y, z = vectors.unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)


def _cut(vectors: Float[Tensor, "n 3"], longest: float) -> Float[Tensor, "n 3"]:
    return vectors * (longest / vectors.norm(dim=1, keepdim=True).clamp_min(longest))
