"""Expressions mixed at random from ARKit's shapes: what nobody has a name for, but faces do between two names."""

import numpy as np

from nphm_core.synthetic.subject import ExpressionSpec

_PARTS: tuple[tuple[str, ...], ...] = (
    ("browDown*", "browInnerUp", "browOuterUp*"),
    ("eyeBlink*", "eyeSquint*", "eyeWide*", "cheekSquint*"),
    ("noseSneer*", "cheekPuff", "mouthDimple*"),
    ("mouthSmile*", "mouthFrown*", "mouthStretch*", "mouthPucker", "mouthFunnel", "mouthLeft", "mouthRight"),
    ("mouthUpperUp*", "mouthLowerDown*", "mouthPress*", "mouthRollLower", "mouthRollUpper", "mouthShrugUpper"),
    ("jawForward", "jawLeft", "jawRight"),
)
"""Shapes of one part exclude each other; a star stands for both sides."""

_PART_SHARE = (0.5, 0.6, 0.3, 0.8, 0.4, 0.15)
_WEIGHT = (0.25, 1.0)
_ONE_SIDED_SHARE, _WEAKER_SIDE = 0.25, (0.0, 0.6)
_OPEN_SHARE, _JAW_RAD = 0.5, (0.03, 0.28)


def mixed_expression(rng: np.random.Generator) -> ExpressionSpec:
    """Draw an expression: at most one shape of each part of the face, sides mostly alike, the mouth open in half."""
    weights: dict[str, float] = {}
    for shapes, share in zip(_PARTS, _PART_SHARE, strict=True):
        shape, is_used = str(rng.choice(shapes)), rng.random() < share
        weight, weaker = float(rng.uniform(*_WEIGHT)), float(rng.uniform(*_WEAKER_SIDE))
        one_sided, first = rng.random() < _ONE_SIDED_SHARE, rng.random() < 0.5
        if not is_used:
            continue
        if not shape.endswith("*"):
            weights[shape] = weight
            continue
        strong, weak = ("Left", "Right") if first else ("Right", "Left")
        weights[shape[:-1] + strong] = weight
        weights[shape[:-1] + weak] = weight * (weaker if one_sided else 1.0)
    opening = float(rng.uniform(*_JAW_RAD))
    jaw = {"jaw": (opening, 0.0, 0.0)} if rng.random() < _OPEN_SHARE else {}
    return ExpressionSpec(weights, jaw)
