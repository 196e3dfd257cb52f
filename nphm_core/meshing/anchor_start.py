"""The template brought near a head of which only the anchors are known.

The linear model behind the template is fitted to the anchors first, its jaw included, as canonical heads have their
mouth open; the rest is interpolated by a biharmonic spline over the anchors. Canonical units.
"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.interpolate import RBFInterpolator

from nphm_core.errors import TemplateError
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, align_points
from nphm_core.template.template import N_ANCHORS, Template

_UNITS_PER_METRE = 1000 / MM_PER_CANONICAL_UNIT
_ANCHOR_STD = 3.0 / MM_PER_CANONICAL_UNIT
_JAW_RAD = np.linspace(0.0, 0.4, 9)
_N_IDENTITY = 40


def template_at_anchors(template: Template, anchors: Float[ndarray, "39 3"]) -> Float[ndarray, "n_vertices 3"]:
    """Give the template's vertices, with its 39 anchors at the given places."""
    if len(np.unique(template.anchors)) < N_ANCHORS:
        raise TemplateError(
            f"the template has {len(np.unique(template.anchors))} different anchors; expected {N_ANCHORS}. "
            "Make it again with `python -m pipelines.template`."
        )
    vertices = _linear_fit(template, anchors)
    return bent_to_points(vertices, vertices[template.anchors], anchors)


def bent_to_points(
    vertices: Float[ndarray, "n 3"], source: Float[ndarray, "m 3"], target: Float[ndarray, "m 3"]
) -> Float[ndarray, "n 3"]:
    """Move vertices as the thinnest bend in space does that takes `source` to `target` exactly."""
    # In three dimensions the biharmonic kernel is the distance itself.
    return vertices + RBFInterpolator(source, target - source, kernel="linear", degree=0)(vertices)


def _linear_fit(template: Template, anchors: Float[ndarray, "39 3"]) -> Float[ndarray, "n_vertices 3"]:
    model = template.model
    n = min(_N_IDENTITY, model.n_identity)
    basis = _UNITS_PER_METRE * model.shapedirs_identity[template.anchors, :, :n].reshape(-1, n).astype(float)
    prior = _ANCHOR_STD**2 * np.eye(n)
    best, best_energy = _UNITS_PER_METRE * model.v_template, np.inf
    for angle in _JAW_RAD if model.joint("jaw") is not None else _JAW_RAD[:1]:
        pose = {"jaw": np.array([angle, 0.0, 0.0])} if angle else {}
        mean = _UNITS_PER_METRE * model.pose(np.zeros(model.n_identity), None, pose)
        T_canonical_mean = align_points(mean[template.anchors], anchors)
        placed = T_canonical_mean.apply(mean[template.anchors])
        offset = (anchors - placed).ravel()
        coefficients = np.linalg.solve(basis.T @ basis + prior, basis.T @ offset)
        residual = offset - basis @ coefficients
        energy = residual @ residual + _ANCHOR_STD**2 * coefficients @ coefficients
        if energy < best_energy:
            identity = np.zeros(model.n_identity)
            identity[:n] = coefficients
            best = T_canonical_mean.apply(_UNITS_PER_METRE * model.pose(identity, None, pose))
            best_energy = energy
    return best
