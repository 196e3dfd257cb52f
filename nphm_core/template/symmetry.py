"""Mirrored vertex pairs of a template whose mean head is mirror-symmetric at x = 0, exactly or nearly."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.errors import TemplateError

_EXACT = 1e-3
"""Metres within which the partners of a symmetric topology lie."""
_NEAR = 0.015
"""Metres within which the nearest vertex to a mirror image has to lie where the topology is not symmetric."""


@dataclass(frozen=True)
class MirroredPairs:
    """Partners of vertices across the plane x = 0."""

    partner: Int[ndarray, " n"]
    """Mirrored vertex of each vertex; itself on the midline."""
    symmetric: bool
    """The partner of a partner is the vertex itself; False where the topology has no such pairs."""
    distance: Float[ndarray, " n"]
    """Metres between the partner and the mirror image."""


def mirrored_pairs(vertices: Float[ndarray, "n 3"]) -> MirroredPairs:
    """Pair vertices with the nearest ones to their mirror images.

    Where nearest vertices do not agree with each other, the cheapest assignment among them decides; where even that
    leaves partners apart (a decimated mesh), each vertex keeps its nearest. Raises TemplateError for a head that is
    not symmetric at x = 0.
    """
    from scipy.spatial import cKDTree

    image = vertices * [-1.0, 1.0, 1.0]
    distance, nearest = cKDTree(vertices).query(image)
    if distance.max() > _NEAR:
        worst = int(distance.argmax())
        raise TemplateError(
            f"the nearest vertex lies {1000 * distance.max():.1f} mm from vertex {worst}'s mirror image; expected "
            f"at most {1000 * _NEAR:.0f} mm in a head that is symmetric at x = 0. Centre the model at x = 0."
        )
    agreed = nearest[nearest] == np.arange(len(vertices))
    partner = nearest.copy()
    if not agreed.all():
        partner = _assigned(vertices, image, nearest, np.flatnonzero(~agreed))
    apart = np.linalg.norm(image - vertices[partner], axis=1)
    symmetric = bool(apart.max() <= max(_EXACT, 3 * np.median(apart)))
    partner = partner if symmetric else nearest
    return MirroredPairs(partner, symmetric, np.linalg.norm(image - vertices[partner], axis=1))


def _assigned(vertices: ndarray, image: ndarray, nearest: ndarray, open_: ndarray) -> ndarray:
    """Resolve the vertices whose nearest partners disagree, as an involution."""
    from scipy.optimize import linear_sum_assignment

    if len(open_) > 2000:  # too many for an assignment: the mesh is not symmetric
        return nearest
    cost = np.linalg.norm(image[open_, None] - vertices[None, open_], axis=2)
    rows, columns = linear_sum_assignment(cost + cost.T)
    partner = nearest.copy()
    partner[open_] = open_
    for row, column in zip(rows, columns, strict=True):
        a, b = open_[row], open_[column]
        if partner[a] == a and partner[b] == b:
            partner[a], partner[b] = b, a
    return partner
