"""Mirrored vertex pairs of a template whose mean head is mirror-symmetric at x = 0, exactly or nearly."""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.errors import TemplateError

_MAX_DISTANCE = 0.006
"""Metres that a vertex may lie from its partner's mirror image: models learnt from people are a little crooked."""


def mirrored_pairs(
    vertices: Float[ndarray, "n 3"], *, max_distance: float = _MAX_DISTANCE
) -> tuple[Int[ndarray, " n"], float]:
    """Give each vertex's partner, and the largest distance in metres between a vertex and its partner's image.

    The result is an involution: the partner of a partner is the vertex itself. Where nearest vertices do not agree
    with each other, the cheapest assignment among them decides; the mesh need not be exactly symmetric. Raises
    TemplateError where a vertex has no partner within the limit.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial import cKDTree

    image = vertices * [-1.0, 1.0, 1.0]
    _, pairs = cKDTree(vertices).query(image)
    agreed = pairs[pairs] == np.arange(len(vertices))
    open_ = np.flatnonzero(~agreed)
    if len(open_):
        cost = np.linalg.norm(image[open_, None] - vertices[None, open_], axis=2)
        # The symmetric cost makes the assignment and its inverse equally cheap; the pairs below enforce one of them.
        rows, columns = linear_sum_assignment(cost + cost.T)
        pairs[open_] = open_
        for row, column in zip(rows, columns, strict=True):
            a, b = open_[row], open_[column]
            if pairs[a] == a and pairs[b] == b:
                pairs[a], pairs[b] = b, a
    distance = np.linalg.norm(image - vertices[pairs], axis=1)
    if distance.max() > max_distance:
        worst = int(distance.argmax())
        raise TemplateError(
            f"vertex {worst} of the mean head lies {1000 * distance.max():.1f} mm from its mirrored partner; expected "
            f"at most {1000 * max_distance:.0f} mm in a head that is symmetric at x = 0. Centre the model at x = 0."
        )
    return pairs, float(distance.max())
