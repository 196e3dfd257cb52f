"""The rest pose of the as-rigid-as-possible registration, with lips and eyelids that do not cross.

A linear fit may close lips or eyes too far. As the registration keeps what the rest pose is like, it would keep that.
So crossings are taken out of the rest pose first, on the two coarsest levels, where the parts are few triangles wide
and give way at small cost; finer levels take over the displacement. Positions in mm.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.geometry.subdivision import Subdivision
from nphm_core.registration.arap_level import RigidLevel
from nphm_core.registration.arap_repair import crossing_faces, repair
from nphm_core.registration.correspondences import Correspondences
from nphm_core.registration.rims import RimPair

_LEVELS = 2
_STIFFNESS = 1.0
_HOLD = 1e-4
"""Weight of the place at rest: enough for a unique solution, too little to hold a crossing."""


def opened_rest(
    finest: Float[ndarray, "n_fine 3"],
    faces: Int[ndarray, "n_faces 3"],
    hierarchy: Sequence[Subdivision],
    pairs: Sequence[RimPair],
) -> Float[ndarray, "n_fine 3"]:
    """Give the rest pose with crossings taken out as far as possible; without any it is the same array.

    `faces` and `pairs` are of the coarsest level, whose vertices are the first of `finest`.
    """
    n = hierarchy[0].n_coarse_vertices if hierarchy else len(finest)
    vertices, moved = np.array(finest[:n]), False
    for index in range(len(hierarchy) + 1):
        if index:
            step = hierarchy[index - 1]
            vertices = finest[: step.n_vertices] + step.matrix @ (vertices - finest[: len(vertices)])
            faces, pairs = step.faces, [pair.subdivided(step) for pair in pairs]
        if index < _LEVELS and any(len(crossing_faces(vertices, faces, pair)) for pair in pairs):
            vertices, moved = _opened(finest[: len(vertices)], vertices, faces, pairs), True
    return vertices if moved else finest


def _opened(rest: ndarray, vertices: ndarray, faces: ndarray, pairs: Sequence[RimPair]) -> ndarray:
    level, nothing = RigidLevel(rest, faces), np.zeros(len(rest))
    held = Correspondences(np.array(rest), level.normals(rest), nothing, nothing + _HOLD, nothing, nothing)
    return repair(level, vertices, held, _STIFFNESS, pairs).vertices
