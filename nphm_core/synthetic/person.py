"""People of a corpus: what a linear model knows of them, and what it does not.

A person of the `full` variant has relief of their own, hair with a volume, and local warps that respect no symmetry;
one of the `plain` variant is a bare head of the linear model. All of it is fixed to the skin. Every choice follows from
the person's seed alone, and the plain twin of a person has the same coefficients and expressions. Lengths in mm.
"""

import copy
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nphm_core.geometry.mesh import unique_edges, vertex_normals
from nphm_core.geometry.subdivision import subdivide_linearly
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.synthetic.asymmetry import LocalWarps, WarpSettings, draw_warps, warp_head
from nphm_core.synthetic.mixed_expressions import mixed_expression
from nphm_core.synthetic.noise import smooth_noise
from nphm_core.synthetic.subject import (
    EXPRESSIONS,
    MM_PER_METRE,
    ExpressionSpec,
    HeadSurface,
    Subject,
    draw_subject,
    hair_cover,
)

Variant = Literal["full", "plain"]

CLOSED, OPEN = "neutral", "mouth-open"
"""Names of the two neutrals; the open one is canonical."""

_MAX_HAIR_MM = 30.0
_BALD_SHARE = 0.15
_EAR_HAIR_MM, _EAR_REACH_MM = 2.0, 28.0
_HAIR_SMOOTHING = 12
_INTENSITY = (0.55, 1.15)
_OPENING = (0.85, 1.15)
_SIDES = (0.75, 1.25)


@dataclass(frozen=True)
class HairStyle:
    """How long hair stands off the skin."""

    length_mm: float
    """Mean over the head."""
    top: float
    """Relative length at the crown, the sides and the back."""
    sides: float
    back: float


@dataclass(frozen=True)
class Person:
    """Everything that a seed decides about a subject."""

    subject: Subject
    warps: LocalWarps | None
    """None in the plain variant."""
    hair: HairStyle | None
    """None for a bald head."""
    expressions: dict[str, ExpressionSpec]
    """By name, the closed and the open neutral first; intensities are the person's own."""


def draw_person(surface: HeadSurface, variant: Variant, n_expressions: int, *, rng: np.random.Generator) -> Person:
    """Draw a person of the surface's model."""
    head_map = surface.head_map
    subject = draw_subject(head_map.model.n_identity, rng=rng)
    expressions = _draw_expressions(n_expressions, rng)
    hair = _draw_hair(rng)
    material = head_map.model.v_template * MM_PER_METRE
    warps = draw_warps(material, _warped(surface), WarpSettings(), rng=rng)
    if variant == "plain":
        return Person(replace(subject, relief=0.0, hair_mm=0.0), None, None, expressions)
    return Person(replace(subject, hair_mm=0.0), warps, hair, expressions)


def canonical_skin(surface: HeadSurface, person: Person, name: str) -> Float[ndarray, "n 3"]:
    """Give the bare skin of a person in an expression, in canonical space."""
    own = surface
    if person.warps is not None:
        model = surface.head_map.model
        moved = warp_head(person.warps, model.v_template * MM_PER_METRE, surface.head_map.eye_centres)
        own = copy.copy(surface)
        warped = replace(model, v_template=model.v_template + moved / MM_PER_METRE)
        own.head_map = replace(surface.head_map, model=warped)
    posed = own.pose(person.subject, person.expressions[name])
    # No expression turns the neck, so the model's frame is the skull's.
    return posed.skin[: len(posed.skin) - posed.n_tongue_vertices] / MM_PER_CANONICAL_UNIT


def hair_offset(
    surface: HeadSurface, person: Person, skin: Float[ndarray, "n 3"], to_ear_mm: Float[ndarray, " n"]
) -> Float[ndarray, "n 3"]:
    """Give how far hair lies off the skin, as vectors in canonical space; `to_ear_mm` is measured on the mean head.

    The scalp hardly moves with an expression, so a subject has one offset for all.
    """
    if person.hair is None:
        return np.zeros_like(skin)
    thickness = _hair_thickness(surface, person.hair, person.subject.seed, to_ear_mm)
    return thickness[:, None] * _smooth_normals(surface, skin) / MM_PER_CANONICAL_UNIT


def _warped(surface: HeadSurface) -> ndarray:
    """Mark where warps may be centred: skin of face and ears, above the neck and without hair."""
    head_map = surface.head_map
    vertices = head_map.model.v_template * MM_PER_METRE
    eyes, mouth = head_map.eye_centres.mean(0), head_map.lower_lip.mean(0)
    chin = mouth[1] - 0.75 * (eyes[1] - mouth[1])
    behind = eyes[2] - 1.6 * np.ptp(head_map.eye_centres[:, 0])
    skin = ~(head_map.eyeball | head_map.inside) & (head_map.hair < 0.5)
    return skin & (vertices[:, 1] > chin) & (vertices[:, 2] > behind)


def _draw_expressions(n: int, rng: np.random.Generator) -> dict[str, ExpressionSpec]:
    """Choose the two neutrals and others, each as strong as this person performs it; what is lacking is mixed."""
    moving = {name: spec for name, spec in EXPRESSIONS.items() if spec.weights or "jaw" in spec.rotations}
    others = [name for name, spec in moving.items() if not spec.neutral]
    chosen = rng.permutation(len(others))[: max(n - 2, 0)]
    out = {
        CLOSED: ExpressionSpec({}, {}, "closed"),
        OPEN: _performed(EXPRESSIONS[OPEN], float(rng.uniform(*_OPENING)), rng),
    }
    for index in sorted(chosen.tolist()):
        out[others[index]] = _performed(EXPRESSIONS[others[index]], float(rng.uniform(*_INTENSITY)), rng)
    for k in range(n - len(out)):
        out[f"mixed-{k:02d}"] = mixed_expression(rng)
    return dict(list(out.items())[:n])


def _performed(spec: ExpressionSpec, intensity: float, rng: np.random.Generator) -> ExpressionSpec:
    # Nobody smiles with both sides alike.
    side = {"Left": rng.uniform(*_SIDES), "Right": rng.uniform(*_SIDES)}
    weights = {
        name: min(1.0, intensity * value * next((side[end] for end in side if name.endswith(end)), 1.0))
        for name, value in spec.weights.items()
    }
    jaw = spec.rotations.get("jaw")
    rotations = {} if jaw is None else {"jaw": (intensity * jaw[0], intensity * jaw[1], intensity * jaw[2])}
    return ExpressionSpec(weights, rotations, spec.neutral)


def _draw_hair(rng: np.random.Generator) -> HairStyle | None:
    bald = rng.random() < _BALD_SHARE
    length = float(rng.choice([rng.uniform(2, 6), rng.uniform(6, 13), rng.uniform(13, 20)]))
    top, sides, back = rng.uniform(0.7, 1.5), rng.uniform(0.3, 1.1), rng.uniform(0.5, 1.4)
    return None if bald else HairStyle(length, float(top), float(sides), float(back))


def _hair_thickness(
    surface: HeadSurface, style: HairStyle, seed: int, to_ear_mm: Float[ndarray, " n"]
) -> Float[ndarray, " n"]:
    m = surface.material
    cover = hair_cover(surface.cover, m, seed)
    middle = surface.head_map.eye_centres.mean(0) - [0.0, 0.0, 75.0]
    direction = (m - middle) / np.maximum(np.linalg.norm(m - middle, axis=1, keepdims=True), 1e-9)
    parts = np.stack([np.maximum(direction[:, 1], 0), np.abs(direction[:, 0]), np.maximum(-direction[:, 2], 0)]) ** 2
    style_there = (np.array([style.top, style.sides, style.back]) @ parts + 0.1) / (parts.sum(0) + 0.1)
    bulk = 1 + 0.35 * smooth_noise(m, 32.0, seed + 5, octaves=2)
    locks = 0.12 * smooth_noise(m, (5.0, 24.0, 5.0), seed + 6)
    thickness = style.length_mm * style_there * np.clip(bulk + locks, 0.3, 1.8)
    # Thick hair beside an ear would lie inside it.
    longest = _EAR_HAIR_MM + (_MAX_HAIR_MM - _EAR_HAIR_MM) * np.clip(to_ear_mm / _EAR_REACH_MM, 0, 1)
    return cover * np.minimum(thickness, longest)


def _smooth_normals(surface: HeadSurface, skin: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3"]:
    """Give normals averaged over a few centimetres: hair lies over folds instead of crossing in them."""
    from scipy.sparse import coo_array, diags_array

    model = surface.head_map.model
    normals = vertex_normals(skin, surface.faces)[: model.n_vertices]
    edges, _ = unique_edges(model.faces)
    both = np.concatenate([edges, edges[:, ::-1], np.repeat(np.arange(model.n_vertices)[:, None], 2, axis=1)])
    graph = coo_array((np.ones(len(both)), (both[:, 0], both[:, 1])), shape=(model.n_vertices,) * 2).tocsr()
    mean = diags_array(1.0 / graph.sum(1)) @ graph
    for _ in range(_HAIR_SMOOTHING):
        normals = mean @ normals
    fine = subdivide_linearly(surface.hierarchy, normals)
    return fine / np.maximum(np.linalg.norm(fine, axis=1, keepdims=True), 1e-12)
