"""Morph targets of a subject: its registered expressions, and the head model's own blendshapes on its neutral.

Offsets in metres, canonical frame. The 52 ARKit names are complete for the embedded template: 50 are expression
components, jawOpen is the jaw's rotation, tongueOut moves nothing, as the mesh has no tongue.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nphm_core.exports.registered_scan import RegisteredScan
from nphm_core.template.model import Coefficients, HeadModel
from nphm_core.template.template import Template

_JAW_OPEN_RAD = 0.3613
"""What the embedded model's data turn the lower teeth by in jawOpen."""
_ARKIT_WITHOUT_COMPONENT = ("jawOpen", "tongueOut")
_A_FEW_ARKIT = {"browInnerUp", "eyeBlinkLeft", "jawForward", "mouthFunnel", "noseSneerRight"}


def base_scan(scans: Sequence[RegisteredScan]) -> RegisteredScan:
    """Give the scan that a subject's targets start from: its closed neutral, else its open one, else the first."""
    for kind in ("closed", "open"):
        for scan in scans:
            if scan.neutral == kind:
                return scan
    return scans[0]


def captured_targets(
    base: RegisteredScan, scans: Sequence[RegisteredScan], template: Template, topology: str
) -> dict[str, Float[ndarray, "n 3"]]:
    """Give what leads from the base scan to each other scan of the subject, by the expression's name."""
    rest = base.to_metres.apply(base.mesh(template, topology).vertices)
    return {
        scan.expression: scan.to_metres.apply(scan.mesh(template, topology).vertices) - rest
        for scan in scans
        if scan is not base
    }


def blendshape_targets(base: RegisteredScan, template: Template) -> dict[str, Float[ndarray, "n 3"]]:
    """Give the head model's expression components as offsets of the base scan, in the template's topology.

    They are taken at the base scan's identity, expression and joints, so that they fit the pose it was scanned in.
    """
    model = template.model
    T = base.to_metres @ base.T_metric_model
    rest = model.posed(base.fit)

    def offset(coefficients: Coefficients) -> Float[ndarray, "n 3"]:
        return T.scale * T.apply_directions(model.posed(coefficients) - rest)

    out = {}
    for k, name in enumerate(model.expression_names):
        expression = base.fit.expression.copy()
        expression[k] += 1.0
        out[name] = offset(Coefficients(base.fit.identity, expression, base.fit.rotations))
    if not is_arkit(model):
        return out
    jaw = model.joint("jaw")
    rotations = base.fit.rotations.copy()
    if jaw is not None:
        rotations[jaw, 0] += _JAW_OPEN_RAD
    out["jawOpen"] = offset(Coefficients(base.fit.identity, base.fit.expression, rotations))
    out["tongueOut"] = np.zeros_like(rest)
    return dict(sorted(out.items()))


def is_arkit(model: HeadModel) -> bool:
    """Tell whether the model's expressions are ARKit's, but for those that are no component."""
    names = set(model.expression_names)
    return names >= _A_FEW_ARKIT and not names & set(_ARKIT_WITHOUT_COMPONENT)


def joined_targets(
    captured: dict[str, Float[ndarray, "n 3"]], blendshapes: dict[str, Float[ndarray, "n 3"]]
) -> dict[str, Float[ndarray, "n 3"]]:
    """Give both kinds; an expression that is named as a blendshape gets `scan-` before its name."""
    return {(f"scan-{name}" if name in blendshapes else name): value for name, value in captured.items()} | blendshapes
