"""The linear baseline's training: principal components of registered meshes, with the registrations' trust.

Components are found through the Gram matrix of the shapes, one range of vertices at a time, so that neither all shapes
nor a covariance of vertices is ever held. The metric is the surface: a vertex counts by its area and its trust, so a
finely meshed mouth does not outvote the cheeks. Where a registration is not trusted, its position is replaced step by
step by what the leading components predict from the rest of the head (EM for missing data, Roweis, NIPS 1997); where
nobody's is trusted, all keep what their registrations say. Positions are canonical.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from numpy import ndarray

from nphm_core.config import TrainBaselinesConfig
from nphm_core.errors import TrainingError
from nphm_core.geometry.mesh import face_normals
from nphm_core.models.linear_head import LinearHead

log = logging.getLogger(__name__)

_BLOCK_BYTES = 48e6
# A variance this much smaller than the largest is rounding, of stored positions (2.5 micrometres) and of float32.
_MIN_RELATIVE_VARIANCE = 1e-6
_MIN_TRUST = 0.05
_N_PASSES = 5
_SHAPES_PER_FILLING_COMPONENT = 5

ReadBlock = Callable[[int, int], tuple[Float32[ndarray, "n_shapes n 3"], Float32[ndarray, "n_shapes n"]]]
"""Gives the positions and the trust of all shapes for the vertices from the first number up to the second."""


@dataclass(frozen=True)
class ShapeTable:
    """Shapes of one topology, read a range of vertices at a time."""

    n_shapes: int
    n_vertices: int
    read: ReadBlock

    @classmethod
    def of_arrays(
        cls, shapes: Float[ndarray, "n_shapes n_vertices 3"], trust: Float[ndarray, "n_shapes n_vertices"] | None = None
    ) -> "ShapeTable":
        """Give a table of shapes that are in memory; without `trust` all are trusted."""
        weight = np.ones(shapes.shape[:2], np.float32) if trust is None else trust

        def read(start: int, stop: int) -> tuple[ndarray, ndarray]:
            return shapes[:, start:stop].astype(np.float32), weight[:, start:stop].astype(np.float32)

        return cls(shapes.shape[0], shapes.shape[1], read)

    def blocks(self) -> Iterator[tuple[slice, Float32[ndarray, "n_shapes n 3"], Float32[ndarray, "n_shapes n"]]]:
        """Read all vertices, range after range; trust is relative to the vertex's most trusted shape."""
        size = max(1, int(_BLOCK_BYTES / (12 * max(1, self.n_shapes))))
        for start in range(0, self.n_vertices, size):
            stop = min(start + size, self.n_vertices)
            shapes, trust = self.read(start, stop)
            trust = np.maximum(trust, np.float32(_MIN_TRUST))
            yield slice(start, stop), shapes, trust / trust.max(axis=0)


@dataclass(frozen=True)
class Components:
    """A linear model of shapes: `mean + basis @ code`."""

    mean: Float32[ndarray, "n_vertices 3"]
    basis: Float32[ndarray, "n_vertices 3 k"]
    """For codes of variance one; the strongest component first."""
    codes: Float32[ndarray, "n_shapes k"]
    """Of the shapes that it was learnt from."""
    code_mean: Float32[ndarray, " k"]
    variance_share: Float[ndarray, " k"]
    """Share of the squared distance from `mean` (over surface and shapes) that each component explains."""


def principal_components(
    table: ShapeTable,
    area: Float[ndarray, " n_vertices"],
    n_components: int,
    *,
    n_at_rest: int | None = None,
) -> Components:
    """Find at most `n_components` components of shapes, as many as the shapes carry.

    With `n_at_rest` the shapes are displacements: the model goes through zero, and so many further shapes without any
    displacement count for the codes' mean and variance. Without, the mean shape is taken off.
    """
    if table.n_shapes < (2 if n_at_rest is None else 1):
        raise TrainingError(
            f"there are {table.n_shapes} shapes to learn a linear model from; expected at least two subjects and one "
            "expression. Register more scans, or hold out fewer subjects"
        )
    fit = _EmFit(table, area, n_components, centred=n_at_rest is None)
    for number in range(_N_PASSES if fit.has_gaps else 1):
        fit.run_pass()
        log.debug("pass %d of the components over %d shapes", number + 1, table.n_shapes)
    return _whitened(fit, n_at_rest)


def train_linear_head(
    neutrals: ShapeTable,
    displacements: ShapeTable,
    faces: Int[ndarray, "n_faces 3"],
    settings: TrainBaselinesConfig,
    *,
    subjects: tuple[str, ...],
    scans: tuple[str, ...],
    anchors: Int[ndarray, " n_anchors"],
    visible: Bool[ndarray, " n_vertices"],
    template_hash: str,
) -> LinearHead:
    """Learn a linear head model from canonical neutrals (`subjects`) and posed less canonical shapes (`scans`).

    The displacements are those of scans in another expression than the canonical one.
    """
    if neutrals.n_shapes <= settings.pca_identity:
        log.info("%d subjects carry fewer than %d identity components", neutrals.n_shapes, settings.pca_identity)
    area = _mean_areas(neutrals, faces)
    identity = principal_components(neutrals, area, settings.pca_identity)
    n_expression = settings.pca_expression if displacements.n_shapes else 0
    expression = (
        principal_components(displacements, area, n_expression, n_at_rest=neutrals.n_shapes)
        if n_expression
        else _no_components(len(area), displacements.n_shapes)
    )
    return LinearHead(
        mean=identity.mean,
        identity_basis=identity.basis,
        expression_basis=expression.basis,
        expression_mean=expression.code_mean,
        faces=faces,
        anchors=anchors,
        visible=visible,
        template_hash=template_hash,
        subjects=subjects,
        scans=scans,
        identity_codes=identity.codes,
        expression_codes=expression.codes,
        facts={
            "identity_variance_share": round(float(identity.variance_share.sum()), 6),
            "expression_variance_share": round(float(expression.variance_share.sum()), 6),
        },
    )


def _mean_areas(table: ShapeTable, faces: Int[ndarray, "n_faces 3"]) -> Float[ndarray, " n_vertices"]:
    """Give each vertex of the mean shape a third of the area of its triangles."""
    mean = np.zeros((table.n_vertices, 3))
    for rows, shapes, trust in table.blocks():
        mean[rows] = np.einsum("sn,snk->nk", trust, shapes) / trust.sum(0)[:, None]
    area = face_normals(mean, faces)[1]
    return np.bincount(faces.ravel(), np.repeat(area / 3, 3), minlength=len(mean))


def _no_components(n_vertices: int, n_shapes: int) -> Components:
    none = np.zeros((n_shapes, 0), np.float32)
    mean = np.zeros((n_vertices, 3), np.float32)
    return Components(mean, np.zeros((n_vertices, 3, 0), np.float32), none, none[:0].ravel(), np.zeros(0))


class _EmFit:
    """Components of shapes with gaps; each pass fills the gaps from the components of the pass before."""

    def __init__(self, table: ShapeTable, area: ndarray, n_components: int, *, centred: bool) -> None:
        self._table, self._centred, self._n_components = table, centred, n_components
        self.mean = np.zeros((table.n_vertices, 3), np.float32)
        self.has_gaps = False
        mass = np.zeros(table.n_vertices)
        for rows, shapes, trust in table.blocks():
            if centred:
                self.mean[rows] = np.einsum("sn,snk->nk", trust, shapes) / trust.sum(0)[:, None]
            self.has_gaps |= bool((trust < 1).any())
            mass[rows] = trust.mean(0) * area[rows]
        # Positions times the root of this have the surface's metric, with area one in all.
        self._root_mass = np.sqrt(mass / mass.sum()).astype(np.float32)
        self.scores = np.zeros((table.n_shapes, 0), np.float32)
        self.basis = np.zeros((table.n_vertices, 3, 0), np.float32)
        self.variance, self.total_variance = np.zeros(0), 0.0

    def run_pass(self) -> None:
        n = self._table.n_shapes
        gram = np.zeros((n, n))
        for rows, shapes, trust in self._table.blocks():
            offset = self._filled(rows, shapes, trust) * self._root_mass[rows, None]
            flat = offset.reshape(n, -1)
            gram += flat @ flat.T
        variance, scores = self._eigenvectors(gram)
        basis = np.empty((self._table.n_vertices, 3, scores.shape[1]), np.float32)
        mean = self.mean.copy()
        for rows, shapes, trust in self._table.blocks():
            offset = self._filled(rows, shapes, trust, mean)
            basis[rows] = (offset.reshape(n, -1).T @ scores).reshape(len(offset[0]), 3, scores.shape[1])
        self.mean, self.basis, self.scores, self.variance = mean, basis, scores, variance
        self.total_variance = float(np.trace(gram))

    def _filled(self, rows: slice, shapes: ndarray, trust: ndarray, mean: ndarray | None = None) -> ndarray:
        """Give shapes less their mean, gaps filled; the mean of the filled ones is written into `mean`."""
        offset = shapes - self.mean[rows]
        n_filling = max(1, self._table.n_shapes // _SHAPES_PER_FILLING_COMPONENT)
        if self.has_gaps:
            basis = self.basis[rows, :, :n_filling]
            predicted = self.scores[:, :n_filling] @ basis.reshape(3 * len(basis), basis.shape[2]).T
            offset = trust[..., None] * offset + (1 - trust[..., None]) * predicted.reshape(offset.shape)
        if self._centred:
            shift = offset.mean(0)
            offset = offset - shift
            if mean is not None:
                mean[rows] = self.mean[rows] + shift
        return offset

    def _eigenvectors(self, gram: ndarray) -> tuple[ndarray, ndarray]:
        values, vectors = np.linalg.eigh(gram)
        values, vectors = values[::-1], vectors[:, ::-1]
        n_carried = int((values > _MIN_RELATIVE_VARIANCE * max(values[0], 1e-300)).sum())
        vectors = vectors[:, : min(self._n_components, n_carried)]
        largest = np.abs(vectors).argmax(0)
        signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
        return values[: vectors.shape[1]], (vectors * signs).astype(np.float32)


def _whitened(fit: _EmFit, n_at_rest: int | None) -> Components:
    """Scale codes to variance one; the triangular factor keeps the components' order."""
    n_all = len(fit.scores) + (n_at_rest or 0)
    scores = fit.scores.astype(np.float64)
    mean = scores.sum(0) / n_all if n_at_rest is not None else np.zeros(scores.shape[1])
    covariance = (scores.T @ scores - n_all * np.outer(mean, mean)) / max(1, n_all - 1)
    factor = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(covariance)) / n_all) if scores.size else covariance
    codes = np.linalg.solve(factor, np.concatenate([scores, mean[None]]).T).T if scores.size else scores
    return Components(
        mean=fit.mean,
        basis=(fit.basis.reshape(3 * len(fit.basis), fit.basis.shape[2]) @ factor.astype(np.float32)).reshape(
            fit.basis.shape
        ),
        codes=codes[: len(scores)].astype(np.float32),
        code_mean=(codes[-1] if scores.size else mean).astype(np.float32),
        variance_share=fit.variance / max(fit.total_variance, 1e-300),
    )
