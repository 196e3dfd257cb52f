"""Where things lie on a head model: eyes, lips, hair. What a painter needs to know of the resting mean head."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from nphm_core.template.model import HeadModel

if TYPE_CHECKING:
    from nphm_core.template.template import Template

_MM_PER_METRE = 1000.0


@dataclass(frozen=True)
class HeadMap:
    """A head model and its parts; positions in mm on the resting mean head."""

    model: HeadModel
    eyeball: Bool[ndarray, " n_vertices"]
    inside: Bool[ndarray, " n_vertices"]
    """Inside of the mouth."""
    hair: Float[ndarray, " n_vertices"]
    """1 where hair grows on everyone, 0 where it never does."""
    fixed: Float[ndarray, " n_vertices"]
    """1 where a subject has no relief of its own: eyeballs, lids, lip rims and what is hidden, with soft edges."""
    eye_centres: Float[ndarray, "2 3"]
    eye_radius: float
    upper_lip: Float[ndarray, "n_upper 3"]
    """Rim of the upper lip, where it meets the lower."""
    lower_lip: Float[ndarray, "n_lower 3"]
    lower_rim: Bool[ndarray, " n_vertices"]
    """The vertices of `lower_lip`."""


def head_map(template: "Template") -> HeadMap:
    """Read the map off a template's regions."""
    regions = template.regions
    rims = regions["lips_upper_rim"] | regions["lips_lower_rim"]
    fixed = regions["eyeballs"] | regions["eyelids"] | regions["mouth_interior"] | regions["hidden"] | rims
    return map_from_regions(
        template.model,
        eyeball=regions["eyeballs"],
        inside=regions["mouth_interior"],
        hair=regions["scalp"],
        fixed=fixed,
        upper_rim=regions["lips_upper_rim"],
        lower_rim=regions["lips_lower_rim"],
    )


def map_from_regions(
    model: HeadModel,
    *,
    eyeball: Bool[ndarray, " n_vertices"],
    inside: Bool[ndarray, " n_vertices"],
    hair: Bool[ndarray, " n_vertices"],
    fixed: Bool[ndarray, " n_vertices"],
    upper_rim: Bool[ndarray, " n_vertices"],
    lower_rim: Bool[ndarray, " n_vertices"],
) -> HeadMap:
    """Complete a map from regions: eyes as spheres, soft edges."""
    vertices = model.v_template * _MM_PER_METRE
    left = eyeball & (vertices[:, 0] > 0)
    right = eyeball & (vertices[:, 0] < 0)
    spheres = [_sphere(vertices[side]) for side in (left, right)]
    return HeadMap(
        model,
        eyeball,
        inside,
        _softened(hair.astype(float), model.faces, 2),
        # Wide enough that skin never sinks behind the hidden folds that it covers.
        np.maximum(fixed, np.minimum(1.5 * _softened(fixed.astype(float), model.faces, 4), 1)),
        np.array([centre for centre, _ in spheres]),
        float(np.mean([radius for _, radius in spheres])),
        vertices[upper_rim],
        vertices[lower_rim],
        lower_rim,
    )


def _sphere(points: Float[ndarray, "n 3"]) -> tuple[Float[ndarray, " 3"], float]:
    """Fit a sphere by linear least squares."""
    design = np.concatenate([2 * points, np.ones((len(points), 1))], axis=1)
    solution = np.linalg.lstsq(design, (points**2).sum(1), rcond=None)[0]
    return solution[:3], float(np.sqrt(solution[3] + (solution[:3] ** 2).sum()))


def _softened(values: Float[ndarray, " n"], faces: ndarray, rounds: int) -> Float[ndarray, " n"]:
    count = np.maximum(np.bincount(faces.ravel(), minlength=len(values)), 1)
    for _ in range(rounds):
        mean = values[faces].mean(1)
        values = np.bincount(faces.ravel(), np.repeat(mean, 3), minlength=len(values)) / count
    return values
