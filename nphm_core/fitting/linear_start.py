"""Poses to start a linear head's fit from: trimmed ICP of the mean head from many turns and sizes.

Points are aligned to a fixed set of the mean head's surface points, so the search tree is built once, and all starts
take a step together: hundreds of them cost less than a second. Trimming keeps hair, clothes and what the mean head
lacks out of it (Chetverikov et al., ICPR 2002). Aligned is the head to the points and not the points to the head:
shrinking would bring all points near it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nphm_core.fitting.linear_surface import LinearSurface
from nphm_core.geometry.mesh import vertex_normals
from nphm_core.geometry.sampling import interpolate, sample_surface
from nphm_core.spaces import Similarity
from nphm_core.template.rotations import rotation_matrices

_N_SURFACE = 4000
_N_COARSE, _N_FINE = 150, 500
_FIRST_STEPS, _COARSE_STEPS, _FINE_STEPS = 3, 6, 25
_N_COARSE_STARTS, _N_FINE_STARTS = 100, 16
_TRIM = 0.75
_MIN_NORMAL_COS = 0.3
# A start of the user's may be this far off.
_NEAR_TURN_RAD = 0.6
_NEAR_SCALES = (0.75, 1.0, 1.33)
_ANY_SCALES = (0.8, 1.0, 1.25)
_N_ANY_TURNS = 120
# Poses that differ by less count as one.
_SAME_TURN_RAD, _SAME_SHIFT, _SAME_LOG_SCALE = 0.1, 0.05, 0.06


@dataclass(frozen=True)
class _Aligned:
    pose: Similarity
    """From canonical space to the points."""
    score: float
    """Trimmed mean distance in the points' unit."""


class StartSearch:
    """Finds poses of a mean head on observed points, be the model linear or neural."""

    def __init__(self, points: Float[ndarray, "n 3"], normals: Float[ndarray, "n 3"], *, n_threads: int = 1) -> None:
        """Hold points of the mean head in its mean expression, with outward normals; canonical units.

        The number of threads, for each search, changes no result.
        """
        from scipy.spatial import cKDTree

        self._points, self._normals, self._n_threads = points, normals, n_threads
        # Larger leaves than usual: queries come from far away, and visit many.
        self._tree = cKDTree(points, leafsize=48)

    @classmethod
    def of_surface(cls, surface: LinearSurface, *, rng: np.random.Generator) -> "StartSearch":
        """Draw the points from a linear head."""
        code = np.concatenate([np.zeros(surface.n_identity), surface.head.expression_mean.astype(np.float64)])
        vertices = surface.posed(code)
        drawn = sample_surface(vertices, surface.faces, _N_SURFACE, rng=rng)
        normals = interpolate(vertex_normals(vertices, surface.faces), surface.faces, drawn.face, drawn.barycentric)
        return cls(interpolate(vertices, surface.faces, drawn.face, drawn.barycentric), normals)

    def poses(
        self,
        points: Float[ndarray, "n 3"],
        normals: Float[ndarray, "n 3"] | None,
        start: Similarity | None,
        *,
        n_best: int,
        rng: np.random.Generator,
    ) -> list[Similarity]:
        """Give the best poses, canonical space to points, the best first, none like another.

        `start` may be off by some 35 degrees, a third of the size and several centimetres; without one every turn is
        tried, at sizes that fit the points' extent.
        """
        order = rng.permutation(len(points))
        coarse, fine = order[:_N_COARSE], order[:_N_FINE]

        def part(ids: ndarray) -> tuple[ndarray, ndarray | None]:
            return points[ids], None if normals is None else normals[ids]

        starts = self._near(start, points.mean(0)) if start is not None else self._anywhere(points)
        found = self._best(starts, *part(coarse), _FIRST_STEPS)[:_N_COARSE_STARTS]
        found = self._best([a.pose for a in found], *part(coarse), _COARSE_STEPS)
        found = self._best([a.pose for a in _distinct(found, _N_FINE_STARTS)], *part(fine), _FINE_STEPS)
        return [a.pose for a in _distinct(found, n_best)]

    def _best(self, starts: list[Similarity], points: ndarray, normals: ndarray | None, n_steps: int) -> list[_Aligned]:
        return sorted(self._aligned(starts, points, normals, n_steps), key=lambda a: a.score)

    def _near(self, start: Similarity, centre: Float[ndarray, " 3"]) -> list[Similarity]:
        """Turn and scale a pose about the points' centre, first of all not at all."""
        grid = [np.array(v, float) for v in np.ndindex(3, 3, 3)]
        turns = rotation_matrices(np.stack([np.zeros(3), *(_NEAR_TURN_RAD * (v - 1) for v in grid if (v != 1).any())]))
        out = []
        for turn in turns:
            for scale in _NEAR_SCALES:
                about = Similarity(scale, turn, centre - scale * turn @ centre)
                out.append(about @ start)
        return out

    def _anywhere(self, points: Float[ndarray, "n 3"]) -> list[Similarity]:
        """Bring the front of the head, and the whole head, to the points in every turn."""
        centre = points.mean(0)
        extent = float(np.sqrt(((points - centre) ** 2).sum(1).mean()))
        out = []
        for part in (self._points[self._normals[:, 2] > 0], self._points):
            middle = part.mean(0)
            own = float(np.sqrt(((part - middle) ** 2).sum(1).mean()))
            for turn in _even_rotations(_N_ANY_TURNS):
                for scale in _ANY_SCALES:
                    size = scale * extent / own
                    out.append(Similarity(size, turn, centre - size * turn @ middle))
        return out

    def _aligned(
        self,
        starts: list[Similarity],
        points: Float[ndarray, "n 3"],
        normals: Float[ndarray, "n 3"] | None,
        n_steps: int,
    ) -> list[_Aligned]:
        """Take steps from all starts together."""
        n_kept = max(4, int(_TRIM * len(points)))
        scale = np.array([pose.scale for pose in starts])
        rotation = np.stack([pose.rotation for pose in starts])
        translation = np.stack([pose.translation for pose in starts])
        for step in range(n_steps + 1):
            canonical = ((points - translation[:, None]) @ rotation) / scale[:, None, None]
            distance, nearest = self._tree.query(canonical, workers=self._n_threads)
            distance = distance * scale[:, None]
            if normals is not None:
                wrong = (self._normals[nearest] * (normals @ rotation)).sum(2) < _MIN_NORMAL_COS
                distance = distance + wrong * distance.max(1, keepdims=True)
            kept = np.argpartition(distance, n_kept - 1, axis=1)[:, :n_kept]
            if step < n_steps:
                pairs = self._points[np.take_along_axis(nearest, kept, axis=1)], points[kept]
                scale, rotation, translation = _alignments(*pairs)
        score = np.take_along_axis(distance, kept, axis=1).mean(1)
        poses = [Similarity(float(s), r, t) for s, r, t in zip(scale, rotation, translation, strict=True)]
        return [_Aligned(pose, float(value)) for pose, value in zip(poses, score, strict=True)]


def _alignments(
    source: Float[ndarray, "n_starts n 3"], target: Float[ndarray, "n_starts n 3"]
) -> tuple[Float[ndarray, " n_starts"], Float[ndarray, "n_starts 3 3"], Float[ndarray, "n_starts 3"]]:
    """Give scales, rotations and translations as `align_points` does, for many sets of pairs at once."""
    centre_source, centre_target = source.mean(1), target.mean(1)
    x, y = source - centre_source[:, None], target - centre_target[:, None]
    u, s, vt = np.linalg.svd(y.transpose(0, 2, 1) @ x / source.shape[1])
    sign = np.ones_like(s)
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * sign[:, None]) @ vt
    scale = (s * sign).sum(1) / (x**2).sum(2).mean(1)
    return scale, rotation, centre_target - scale[:, None] * (rotation @ centre_source[..., None])[..., 0]


def _distinct(found: list[_Aligned], n: int) -> list[_Aligned]:
    out: list[_Aligned] = []
    for candidate in found:
        if len(out) == n:
            break
        if not any(_same(candidate.pose, kept.pose) for kept in out):
            out.append(candidate)
    return out


def _same(first: Similarity, second: Similarity) -> bool:
    cosine = (np.trace(first.rotation.T @ second.rotation) - 1) / 2
    shift = np.linalg.norm(first.translation - second.translation) / first.scale
    return bool(
        np.arccos(np.clip(cosine, -1, 1)) < _SAME_TURN_RAD
        and shift < _SAME_SHIFT
        and abs(np.log(first.scale / second.scale)) < _SAME_LOG_SCALE
    )


def _even_rotations(n: int) -> Float[ndarray, "n 3 3"]:
    """Give rotations that cover all turns evenly (super-Fibonacci spirals, Alexa, CVPR 2022)."""
    s = np.arange(n) + 0.5
    alpha, beta = 2 * np.pi * s / np.sqrt(2), 2 * np.pi * s / 1.533751168755204288118041
    inner, outer = np.sqrt(s / n), np.sqrt(1 - s / n)
    x, y = inner * np.sin(alpha), inner * np.cos(alpha)
    z, w = outer * np.sin(beta), outer * np.cos(beta)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)
