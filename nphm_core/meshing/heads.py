"""Meshes of neural heads: the canonical surface, and the same surface in expressions.

A forward model's surface is extracted once, in canonical space, and its vertices are moved: all expressions of an
identity share faces and correspond vertex by vertex. A backward model has no such map: each expression's surface is
extracted in posed space and has faces of its own. Canonical units; the device is the model's.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from nphm_core.geometry.mesh import Mesh
from nphm_core.meshing.octree import Field
from nphm_core.meshing.surface import Extraction, extract_surface
from nphm_core.models.neural_head import NeuralHead

_POINTS_PER_CALL = 2**15


def canonical_mesh(
    head: NeuralHead, identity_code: Float[Tensor, " n_identity"], how: Extraction | None = None
) -> Mesh:
    """Extract the surface of an identity in canonical space; ambient coordinates are zero where there are some."""

    def sdf(points: Tensor) -> Tensor:
        ambient = points.new_zeros(1, len(points), head.identity.n_ambient) if head.identity.n_ambient else None
        return head.identity.sdf(points[None], identity_code[None], ambient)[0]

    return _extracted(sdf, how, identity_code.device)


def posed_mesh(
    head: NeuralHead,
    identity_code: Float[Tensor, " n_identity"],
    expression_code: Float[Tensor, " n_expression"] | None,
    resolution: int = 256,
    *,
    how: Extraction | None = None,
) -> Mesh:
    """Give the surface of an identity in an expression, or in canonical space without one.

    `resolution` is that of `how`, and replaces it where both are given.
    """
    how = replace(how or Extraction(), resolution=resolution)
    if expression_code is None:
        return canonical_mesh(head, identity_code, how)
    return posed_meshes(head, identity_code, expression_code[None], how)[0]


def posed_meshes(
    head: NeuralHead,
    identity_code: Float[Tensor, " n_identity"],
    expression_codes: Float[Tensor, "n_expressions n_expression"],
    how: Extraction | None = None,
) -> list[Mesh]:
    """Give the surfaces of an identity in expressions; those of a forward model share their faces."""
    if head.is_backward:
        return [_extracted(_posed_sdf(head, identity_code, code), how, code.device) for code in expression_codes]
    canonical = canonical_mesh(head, identity_code, how)
    vertices = torch.from_numpy(canonical.vertices)
    return [
        canonical.with_vertices(posed_vertices(head, vertices, identity_code, code).numpy())
        for code in expression_codes
    ]


@torch.no_grad()
def posed_vertices(
    head: NeuralHead,
    vertices: Float[Tensor, "n 3"],
    identity_code: Float[Tensor, " n_identity"],
    expression_code: Float[Tensor, " n_expression"],
) -> Float[Tensor, "n 3"]:
    """Move canonical vertices with a forward model; float64 on the CPU, moved by float32 offsets."""
    parts = []
    for part in vertices.split(_POINTS_PER_CALL):
        points = part.to(identity_code)[None]
        moved = head.posed(points, identity_code[None], expression_code[None])
        # The offset and not the place: it is smaller, and so is its rounding.
        parts.append(part.double().cpu() + (moved - points)[0].double().cpu())
    return torch.cat(parts) if parts else vertices.double().cpu()


def _posed_sdf(head: NeuralHead, identity_code: Tensor, expression_code: Tensor) -> Field:
    return lambda points: head.posed_sdf(points[None], identity_code[None], expression_code[None])[0]


def _extracted(field: Field, how: Extraction | None, device: torch.device) -> Mesh:
    return extract_surface(field, how, device=device).mesh
