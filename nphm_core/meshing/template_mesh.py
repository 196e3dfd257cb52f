"""Heads of a neural model in the template's topology, with landmarks and morph targets.

The template, brought near the head by its anchors, is pulled to the zero set in canonical space: each vertex to its own
projection along the gradient, all of them held together by a smooth displacement that grows more supple from step to
step (cf. Amberg et al. 2007), so that triangles keep their order. What the field does not model (eyeballs, the mouth's
inside, what is hidden) follows its surroundings; so does what finds no surface that faces as it does. Expressions move
the vertices that lie on the surface, and the others follow again. Canonical units.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from nphm_core.errors import TemplateError
from nphm_core.geometry.mesh import Mesh, vertex_normals
from nphm_core.meshing.anchor_start import template_at_anchors
from nphm_core.meshing.displacement import SmoothDisplacement
from nphm_core.meshing.grid import HEAD_BOX, Box
from nphm_core.meshing.heads import posed_vertices
from nphm_core.models.neural_head import NeuralHead
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.template.template import Template, check_topology

SdfAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Signed distances (n), negative inside, and their gradients (n, 3) at points (n, 3) in float32."""

FOLLOWING_REGIONS = ("eyeballs", "mouth_interior", "hidden")
"""Regions of a template that no field of a scan's surface says anything of."""

_LENGTHS_MM = (40.0, 40.0, 30.0, 20.0, 15.0, 10.0, 7.0, 5.0, 3.5, 2.5, 2.5)
_MAX_STEP_MM, _MAX_DISTANCE_MM, _FOUND_MM = 15.0, (40.0, 10.0), 0.1
_MIN_COSINE = 0.3
_N_NEWTON = 4
_MIN_FOUND_SHARE = 0.2
_POINTS_PER_CALL = 2**14


@dataclass(frozen=True)
class TemplateOnSurface:
    """A mesh in template topology whose vertices were brought to the zero set."""

    vertices: Float[ndarray, "n 3"]
    on_surface: Bool[ndarray, " n"]
    """Which of them lie on it; the others follow."""
    distance_mm: Float[ndarray, " n"]
    """Absolute value of the field at the vertices, in mm."""


@dataclass(frozen=True)
class TemplateHead:
    """One identity in the template's topology."""

    template: Template
    canonical: TemplateOnSurface
    posed: Float[ndarray, "n_expressions n_vertices 3"]
    """The morph targets: one head for each expression code."""

    def mesh(self, expression: int | None = None) -> Mesh:
        """Give the head in an expression, or in canonical space."""
        vertices = self.canonical.vertices if expression is None else self.posed[expression]
        return Mesh(vertices, self.template.faces)

    def landmarks(self, expression: int | None = None) -> dict[int, Float[ndarray, " 3"]]:
        """Give the landmarks by MediaPipe's numbers."""
        return self.template.landmarks.by_index(self.mesh(expression).vertices, self.template.faces)

    def landmarks68(self, expression: int | None = None) -> Float[ndarray, "68 3"] | None:
        """Give the 68 iBUG landmarks; None where the template's head model does not bring them."""
        embedding = self.template.model.landmarks68
        if embedding is None:
            return None
        corners = self.mesh(expression).vertices[self.template.faces[embedding[0]]]
        return np.einsum("nk,nkd->nd", embedding[1], corners)


def template_head(
    head: NeuralHead,
    template: Template,
    identity_code: Float[Tensor, " n_identity"],
    expression_codes: Float[Tensor, "n_expressions n_expression"] | None = None,
    *,
    rest: Mesh | None = None,
) -> TemplateHead:
    """Give an identity, and its expressions, in the template's topology.

    `rest` is a head in canonical space to start from, such as a registered one; without it the template is fitted to
    the model's anchors. Raises TemplateError where the template does not find the surface, ValueError for expressions
    of a backward model, which cannot move canonical vertices.
    """
    code = identity_code[None]
    if rest is None:
        with torch.no_grad():
            anchors = head.identity.anchors(code)[0].double().cpu().numpy()
        start = template_at_anchors(template, anchors)
    else:
        check_topology(rest, template)
        start = rest.vertices

    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        ambient = points.new_zeros(1, len(points), head.identity.n_ambient) if head.identity.n_ambient else None
        sdf, gradient = head.identity.sdf_and_gradient(points[None], code, ambient)
        return sdf[0], gradient[0, :, :3]

    follows = np.any([template.regions[name] for name in FOLLOWING_REGIONS], axis=0)
    canonical = project_template(field, start, template.faces, follows, device=identity_code.device)
    codes = [] if expression_codes is None else list(expression_codes)
    posed = _posed(head, canonical, template.faces, identity_code, codes)
    return TemplateHead(template, canonical, posed)


def project_template(
    field: SdfAndGradient,
    start: Float[ndarray, "n 3"],
    faces: Int[ndarray, "n_faces 3"],
    follows: Bool[ndarray, " n"],
    *,
    box: Box = HEAD_BOX,
    device: torch.device | str = "cpu",
) -> TemplateOnSurface:
    """Bring a mesh that lies near the zero set onto it; vertices that `follows` marks, or outside the box, follow."""
    smooth = SmoothDisplacement(start, faces)
    vertices = start
    for k, length_mm in enumerate(_LENGTHS_MM):
        share = k / (len(_LENGTHS_MM) - 1)
        max_distance = (1 - share) * _MAX_DISTANCE_MM[0] + share * _MAX_DISTANCE_MM[1]
        sdf, direction = _evaluated(field, vertices, device)
        target = vertices - np.clip(sdf, *_step_limits())[:, None] * direction
        used = _is_used(vertices, faces, follows, sdf, direction, box, max_distance)
        _check_found(used, follows)
        vertices = smooth.pulled(target, used.astype(float), length_mm / MM_PER_CANONICAL_UNIT)
    for _ in range(_N_NEWTON):
        sdf, direction = _evaluated(field, vertices, device)
        step = np.clip(sdf, *_step_limits())[:, None] * direction
        vertices = np.where(used[:, None], vertices - step, vertices)
    sdf, direction = _evaluated(field, vertices, device)
    used &= _is_used(vertices, faces, follows, sdf, direction, box, _FOUND_MM)
    _check_found(used, follows)
    vertices = smooth.filled(vertices, used, with_scale=True)
    distance = np.abs(_evaluated(field, vertices, device)[0]) * MM_PER_CANONICAL_UNIT
    return TemplateOnSurface(vertices, used, distance)


def _posed(
    head: NeuralHead,
    canonical: TemplateOnSurface,
    faces: Int[ndarray, "n_faces 3"],
    identity_code: Tensor,
    expression_codes: list[Tensor],
) -> Float[ndarray, "n_expressions n_vertices 3"]:
    smooth = SmoothDisplacement(canonical.vertices, faces)
    vertices = torch.from_numpy(canonical.vertices)
    out = np.empty((len(expression_codes), *canonical.vertices.shape))
    for k, code in enumerate(expression_codes):
        moved = posed_vertices(head, vertices, identity_code, code).numpy()
        out[k] = smooth.filled(moved, canonical.on_surface, with_scale=False)
    return out


def _step_limits() -> tuple[float, float]:
    return -_MAX_STEP_MM / MM_PER_CANONICAL_UNIT, _MAX_STEP_MM / MM_PER_CANONICAL_UNIT


@torch.no_grad()
def _evaluated(
    field: SdfAndGradient, vertices: Float[ndarray, "n 3"], device: torch.device | str
) -> tuple[Float[ndarray, " n"], Float[ndarray, "n 3"]]:
    """Give first-order signed distances, and the directions away from the surface."""
    points = torch.from_numpy(vertices).float().to(device)
    parts = [field(part) for part in points.split(_POINTS_PER_CALL)]
    sdf, gradient = (torch.cat([part[k] for part in parts]).double().cpu().numpy() for k in (0, 1))
    # The field is no exact distance: dividing by the slope makes the step Newton's.
    slope = np.clip(np.linalg.norm(gradient, axis=1), 0.2, None)
    return sdf / slope, gradient / slope[:, None]


def _is_used(
    vertices: Float[ndarray, "n 3"],
    faces: Int[ndarray, "n_faces 3"],
    follows: Bool[ndarray, " n"],
    sdf: Float[ndarray, " n"],
    direction: Float[ndarray, "n 3"],
    box: Box,
    max_distance_mm: float,
) -> Bool[ndarray, " n"]:
    """Mark vertices near the surface, in the box, whose normal agrees with the field's."""
    near = np.abs(sdf) * MM_PER_CANONICAL_UNIT < max_distance_mm
    faces_along = np.einsum("ij,ij->i", vertex_normals(vertices, faces), direction) > _MIN_COSINE
    inside = ((vertices > box.low) & (vertices < box.high)).all(axis=1)
    return ~follows & near & faces_along & inside


def _check_found(used: Bool[ndarray, " n"], follows: Bool[ndarray, " n"]) -> None:
    share = float(used[~follows].mean()) if (~follows).any() else 0.0
    if share < _MIN_FOUND_SHARE:
        raise TemplateError(
            f"{share:.0%} of the template's visible vertices find a surface of this head that faces as they do; "
            f"expected at least {_MIN_FOUND_SHARE:.0%}. The model may be untrained, or of another template: train it "
            "longer, or give the template that it was trained with"
        )
