"""Make a template of a head model: landmark embedding, regions, mirrored pairs, anchors, checks."""

import logging
from dataclasses import replace

import numpy as np

from nphm_core.errors import TemplateError
from nphm_core.template.anchors import find_anchors
from nphm_core.template.model import HeadModel
from nphm_core.template.regions import find_regions
from nphm_core.template.symmetry import mirrored_pairs
from nphm_core.template.template import LandmarkEmbedding, Template, bare_template, with_landmarks

log = logging.getLogger(__name__)

_LEAST = {"face": 200, "ears": 20, "scalp": 50, "neck": 20, "lips_upper_rim": 4, "lips_lower_rim": 4, "eyelids": 8}
"""Vertices that a region of a usable head has at least."""


def build_template(model: HeadModel, landmarks: LandmarkEmbedding) -> Template:
    """Make a template of a head model and the landmark embedding that was learnt on it.

    Raises TemplateError for a head model on which face, ears or mouth cannot be found.
    """
    log.info("head model %s", describe(model))
    return complete_template(with_landmarks(bare_template(model), landmarks))


def complete_template(template: Template) -> Template:
    """Add regions, pairs and anchors to a template that has its landmarks."""
    model, landmarks = template.model, template.landmarks
    pairs = mirrored_pairs(model.v_template)
    regions = find_regions(model, landmarks)
    if pairs.symmetric:
        regions = {name: mask | mask[pairs.partner] for name, mask in regions.items()}
        regions = _divided(regions)
    _check_regions(regions)
    seen = regions["face"] | regions["ears"] | regions["scalp"] | regions["neck"]
    facts: dict[str, int | float | str] = {
        "n_vertices": model.n_vertices,
        "n_landmarks": len(landmarks.index),
        "landmark_spread_mm": round(float(np.median(landmarks.spread_mm)), 3) if len(landmarks.index) else 0.0,
        "mirror_distance_mm": round(1000 * float(pairs.distance.max()), 4),
        "symmetric": str(pairs.symmetric),
        **{f"n_{name}": int(mask.sum()) for name, mask in regions.items()},
    }
    anchors = find_anchors(model, landmarks, seen, pairs)
    return replace(template, regions=regions, pairs=pairs.partner, anchors=anchors, facts=facts)


def _divided(regions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Make face, ears, neck and scalp disjoint again after they were made symmetric; the first named wins."""
    out, taken = dict(regions), np.zeros_like(regions["face"])
    for name in ("ears", "face", "neck", "scalp"):
        out[name] = regions[name] & ~taken
        taken |= regions[name]
    out["lips_upper_rim"] = regions["lips_upper_rim"] & ~regions["lips_lower_rim"]
    return out


def _check_regions(regions: dict[str, np.ndarray]) -> None:
    for name, least in _LEAST.items():
        if regions[name].sum() < least:
            raise TemplateError(
                f"the region {name} of the template has {int(regions[name].sum())} vertices; expected at least {least} "
                "in a head with its mouth closed, upright, +z out of the face. Use another head model."
            )


def describe(model: HeadModel) -> str:
    """Give one line about a head model for the log."""
    return (
        f"{model.name}: {model.n_vertices} vertices, {model.n_identity} identity and {model.n_expression} expression "
        f"components, joints {', '.join(model.joint_names)}; licence {model.licence}"
    )
