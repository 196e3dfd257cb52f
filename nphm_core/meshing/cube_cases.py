"""What marching cubes does in each of the 256 cases, derived and not tabulated.

A case is the set of a cube's corners that are inside. On each face of the cube, segments join the crossed edges so that
every run of inside corners is cut off by a segment of its own. This depends on the face alone, so two cubes agree on
the face they share, and what they make together is closed. The segments form loops around the cube. A loop is cut into
triangles whose inner edges lie on no face of the cube: the neighbour could draw the same edge, and four triangles
would meet there. After Lorensen and Cline (1987), with the closed tables that Montani et al. (1994) argue for.
"""

from functools import cache

import numpy as np
from jaxtyping import Int
from numpy import ndarray

CORNERS = tuple((c >> 2 & 1, c >> 1 & 1, c & 1) for c in range(8))
"""Place of each corner in its cube; corner 4 i + 2 j + k lies at (i, j, k)."""

EDGES = tuple((c, c | bit) for bit in (4, 2, 1) for c in range(8) if not c & bit)
"""Lower and upper corner of each edge; four edges along x, four along y, four along z."""

_EDGE_OF = {frozenset(pair): e for e, pair in enumerate(EDGES)}
# Corners of each face, counter-clockwise seen from outside the cube.
_FACES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
_FACES_AT = [{f for f, face in enumerate(_FACES) if set(pair) <= set(face)} for pair in EDGES]


@cache
def case_triangles() -> Int[ndarray, "256 n_most 3"]:
    """Give the triangles of each case as edges of the cube, counter-clockwise seen from outside; -1 fills up.

    Bit c of a case says that corner c is inside.
    """
    cases = [[triangle for loop in _loops(case) for triangle in _triangulations(tuple(loop))[0]] for case in range(256)]
    out = np.full((256, max(map(len, cases)), 3), -1)
    for case, triangles in enumerate(cases):
        if triangles:
            out[case, : len(triangles)] = triangles
    return out


def _loops(case: int) -> list[list[int]]:
    follower: dict[int, int] = {}
    for face in _FACES:
        inside = [bool(case >> corner & 1) for corner in face]
        for k in range(4):
            if inside[k] or not inside[(k + 1) % 4]:
                continue
            # The run of inside corners begins after edge k and ends where the next corner is outside.
            last = next(j for j in range(1, 4) if inside[(k + j) % 4] and not inside[(k + j + 1) % 4])
            leave, enter = (frozenset((face[j % 4], face[(j + 1) % 4])) for j in (k + last, k))
            follower[_EDGE_OF[enter]] = _EDGE_OF[leave]
    loops = []
    while follower:
        loop = [min(follower)]
        while loop[0] != (edge := follower.pop(loop[-1])):
            loop.append(edge)
        loops.append(loop)
    return loops


def _triangulations(loop: tuple[int, ...]) -> list[list[tuple[int, int, int]]]:
    """Give the ways to cut a loop into triangles without an inner edge on a face of the cube."""
    if len(loop) < 3:
        return [[]]
    found = []
    for k in range(1, len(loop) - 1):
        sides = [(0, k)] * (k > 1) + [(k, -1)] * (k < len(loop) - 2)
        if any(_FACES_AT[loop[a]] & _FACES_AT[loop[b]] for a, b in sides):
            continue
        triangle = (loop[0], loop[k], loop[-1])
        before, after = _triangulations(loop[: k + 1]), _triangulations(loop[k:])
        found += [[triangle, *a, *b] for a in before for b in after]
    return found
