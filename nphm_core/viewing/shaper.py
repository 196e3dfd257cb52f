"""Heads of a model fast enough to follow a slider, and the same heads properly.

The quick head of a neural model is the template: brought to the mean head once, moved with the anchors, then pushed
along its normals until it meets the surface. It costs four evaluations at the template's vertices instead of an
extraction. The proper head is extracted. Canonical units.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.interpolate import RBFInterpolator
from scipy.sparse import coo_array, csr_array
from scipy.spatial import cKDTree
from torch import Tensor

from nphm_core.geometry.mesh import Mesh, unique_edges, vertex_normals
from nphm_core.meshing.heads import posed_vertices
from nphm_core.meshing.surface import Extraction, extract_surface
from nphm_core.meshing.template_mesh import template_head
from nphm_core.models.linear_head import LinearHead
from nphm_core.models.neural_head import NeuralHead
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.template.template import Template
from nphm_core.viewing.wish import HeadWish, ModelCodes

_N_PUSHES = 4
_MAX_PUSH = 15.0 / MM_PER_CANONICAL_UNIT
_N_AROUND = 8
_FOUND = 1.0 / MM_PER_CANONICAL_UNIT
_ROUGH = 2.0 / MM_PER_CANONICAL_UNIT
"""A vertex that moves so much otherwise than its neighbours has gone astray: thin ears let pushes through."""
_MIN_COSINE = 0.3
_N_RELAXATIONS = 30
_QUICK_RESOLUTION = 48
_COARSE_SHARE = 4
_POINTS_PER_CALL = {"cpu": 2**12, "cuda": 2**17}
"""Few enough that an extraction nobody waits for any more ends soon."""


class SupersededError(Exception):
    """The head that was being extracted is no longer wanted."""


def _never() -> bool:
    return False


class LinearShaper:
    """Heads of a linear model: always proper, always at once."""

    def __init__(self, head: LinearHead) -> None:
        """Take a model."""
        self.codes = ModelCodes(head)
        self._head = head

    def quick(self, wish: HeadWish) -> Mesh:
        """Give the head."""
        identity = self.codes.identity(wish).double().numpy()
        expression = self.codes.expression(wish)
        if expression is None:
            return Mesh(self._head.canonical(identity), self._head.faces)
        return Mesh(self._head.posed(identity, expression.double().numpy()), self._head.faces)

    def proper(self, wish: HeadWish, resolution: int, is_late: Callable[[], bool] = _never) -> Mesh:
        """Give the same head; it has no resolution."""
        return self.quick(wish)


class NeuralShaper:
    """Heads of a neural model; without a template, or of a backward model, the quick head is a coarse extraction."""

    def __init__(self, head: NeuralHead, template: Template | None) -> None:
        """Bring the template to the mean head, which takes some seconds."""
        self.codes = ModelCodes(head)
        self._head = head
        self._rig = None if template is None or head.is_backward else _TemplateRig(head, template, self.codes)
        self._extracted: tuple[bytes, int, Mesh] | None = None

    def quick(self, wish: HeadWish) -> Mesh:
        """Give the head at once: the template's topology, or a coarse extraction."""
        if self._rig is None:
            return self.proper(wish, _QUICK_RESOLUTION)
        canonical = self._rig.canonical(self.codes.identity(wish))
        expression = self.codes.expression(wish)
        if expression is None:
            return canonical
        return self._rig.posed(canonical, self.codes.identity(wish), expression)

    def proper(self, wish: HeadWish, resolution: int, is_late: Callable[[], bool] = _never) -> Mesh:
        """Extract the head; expressions of one identity share one extraction.

        Raises SupersededError as soon as `is_late` says that something else is wanted.
        """
        identity, expression = self.codes.identity(wish), self.codes.expression(wish)
        if expression is not None and self._head.is_backward:
            return self._extract(identity, expression, resolution, is_late)
        key = identity.cpu().numpy().tobytes()
        if self._extracted is None or self._extracted[:2] != (key, resolution):
            self._extracted = (key, resolution, self._extract(identity, None, resolution, is_late))
        mesh = self._extracted[2]
        if expression is None:
            return mesh
        vertices = torch.from_numpy(mesh.vertices)
        return mesh.with_vertices(posed_vertices(self._head, vertices, identity, expression).numpy())

    def _extract(
        self, identity: Tensor, expression: Tensor | None, resolution: int, is_late: Callable[[], bool]
    ) -> Mesh:
        def sdf(points: Tensor) -> Tensor:
            if is_late():
                raise SupersededError
            if expression is not None:
                return self._head.posed_sdf(points[None], identity[None], expression[None])[0]
            return _canonical_sdf(self._head, points, identity)

        device = identity.device
        coarse = max(16, resolution // _COARSE_SHARE)
        how = Extraction(resolution, coarse, points_per_call=_POINTS_PER_CALL.get(device.type))
        return extract_surface(sdf, how, device=device).mesh


HeadShaper = LinearShaper | NeuralShaper


def head_shaper(head: Any, template: Template | None) -> HeadShaper:
    """Give the shaper that suits a model."""
    return LinearShaper(head) if isinstance(head, LinearHead) else NeuralShaper(head, template)


class _TemplateRig:
    """The template on the mean head, and how its vertices follow anchors and each other."""

    def __init__(self, head: NeuralHead, template: Template, codes: ModelCodes) -> None:
        self._head = head
        mean = codes.identity(HeadWish())
        found = template_head(head, template, mean).canonical
        self._rest, self._faces = found.vertices, template.faces
        self._seen: Bool[ndarray, " n"] = found.on_surface
        self._anchors = self._anchors_of(mean)
        # The spline is linear in what it carries, so one matrix does for every head.
        self._by_anchor = RBFInterpolator(self._anchors, np.eye(len(self._anchors)), kernel="linear", degree=0)(
            self._rest
        )
        near = min(_N_AROUND, int(self._seen.sum()))
        distance, self._around = cKDTree(self._rest[self._seen]).query(self._rest[~self._seen], k=near)
        weight = 1 / np.maximum(distance, 1e-6) ** 2
        self._weight = weight / weight.sum(axis=1, keepdims=True)
        self._averaged = _neighbour_average(template.faces, template.n_vertices)

    def canonical(self, code: Float[Tensor, " n_identity"]) -> Mesh:
        """Give an identity in canonical space."""
        start = self._rest + self._by_anchor @ (self._anchors_of(code) - self._anchors)
        normals = vertex_normals(start, self._faces)
        vertices = start.copy()
        for _ in range(_N_PUSHES):
            push = np.clip(self._sdf(vertices[self._seen], code), -_MAX_PUSH, _MAX_PUSH)
            vertices[self._seen] -= push[:, None] * vertex_normals(vertices, self._faces)[self._seen]
        offset = self._relaxed(vertices - start, self._astray(vertices, start, normals, push))
        vertices[self._seen] = (start + offset)[self._seen]
        moved = vertices[self._seen] - self._rest[self._seen]
        vertices[~self._seen] = self._rest[~self._seen] + self._follow(moved)
        return Mesh(vertices, self._faces)

    def _astray(
        self,
        vertices: Float[ndarray, "n 3"],
        start: Float[ndarray, "n 3"],
        normals: Float[ndarray, "n 3"],
        last_push: Float[ndarray, " n_seen"],
    ) -> Bool[ndarray, " n"]:
        """Mark seen vertices that did not arrive, were turned over, or left their neighbours."""
        offset = vertices - start
        rough = np.linalg.norm(offset - self._averaged @ offset, axis=1) > _ROUGH
        turned = np.einsum("nd,nd->n", vertex_normals(vertices, self._faces), normals) < _MIN_COSINE
        out = rough | turned
        out[self._seen] |= np.abs(last_push) > _FOUND
        # Neighbours of what went astray were pulled along.
        return (self._averaged @ out.astype(float) > 0) & self._seen

    def _relaxed(self, offset: Float[ndarray, "n 3"], astray: Bool[ndarray, " n"]) -> Float[ndarray, "n 3"]:
        """Let stray vertices move as their neighbours do."""
        out = np.where(astray[:, None], 0.0, offset)
        for _ in range(_N_RELAXATIONS):
            out[astray] = (self._averaged @ out)[astray]
        return out

    def posed(self, canonical: Mesh, identity: Float[Tensor, " n_identity"], expression: Tensor) -> Mesh:
        """Give a canonical head in an expression."""
        seen = torch.from_numpy(canonical.vertices[self._seen])
        moved = posed_vertices(self._head, seen, identity, expression).numpy() - canonical.vertices[self._seen]
        vertices = canonical.vertices.copy()
        vertices[self._seen] += moved
        vertices[~self._seen] += self._follow(moved)
        return canonical.with_vertices(vertices)

    def _follow(self, moved: Float[ndarray, "n_seen 3"]) -> Float[ndarray, "n_hidden 3"]:
        return np.einsum("nk,nkd->nd", self._weight, moved[self._around])

    @torch.no_grad()
    def _anchors_of(self, code: Float[Tensor, " n_identity"]) -> Float[ndarray, "39 3"]:
        return self._head.identity.anchors(code[None])[0].double().cpu().numpy()

    @torch.no_grad()
    def _sdf(self, points: Float[ndarray, "n 3"], code: Float[Tensor, " n_identity"]) -> Float[ndarray, " n"]:
        return _canonical_sdf(self._head, torch.from_numpy(points).to(code), code).double().cpu().numpy()


def _neighbour_average(faces: Int[ndarray, "n_faces 3"], n_vertices: int) -> csr_array:
    """Give the matrix that averages what the neighbours of each vertex have; zero where there is none."""
    edges, _ = unique_edges(faces)
    rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
    count = np.maximum(np.bincount(rows, minlength=n_vertices), 1)
    return coo_array((1.0 / count[rows], (rows, columns)), (n_vertices, n_vertices)).tocsr()


def _canonical_sdf(head: NeuralHead, points: Float[Tensor, "n 3"], code: Float[Tensor, " n_identity"]) -> Tensor:
    n_ambient = head.identity.n_ambient
    ambient = points.new_zeros(1, len(points), n_ambient) if n_ambient else None
    return head.identity.sdf(points[None], code[None], ambient)[0]
