"""Who is scanned and what face they make: random subjects of a head model, named expressions, the posed surface.

A subject is more than the model's identity coefficients: a smooth deviation that the model cannot express, fine
relief, hair. All of it is fixed to material coordinates, the positions on the resting mean head after subdivision,
and therefore moves with the skin. Lengths in mm, +y up, +z out of the face, origin that of the model.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.geometry.mesh import vertex_normals
from nphm_core.geometry.subdivision import (
    Subdivision,
    subdivide_surface,
    subdivide_values,
    subdivided_faces,
    subdivision_hierarchy,
)
from nphm_core.synthetic.head_map import HeadMap
from nphm_core.synthetic.noise import smooth_noise
from nphm_core.synthetic.tongue import tongue_shape
from nphm_core.template.model import Coefficients

MM_PER_METRE = 1000.0
_LEVELS = 2
_MAX_COEFFICIENT = 2.0
_IDENTITY_SPREAD = 0.8
"""Model coefficients have unit variance; a little less gives faces that do not look odd."""


@dataclass(frozen=True)
class ExpressionSpec:
    """A performed expression: ARKit weights, joint rotations, and what the scan table says of it."""

    weights: dict[str, float]
    rotations: dict[str, tuple[float, float, float]]
    neutral: str = ""
    """`closed` or `open` for the neutrals."""


def _both(name: str, weight: float) -> dict[str, float]:
    return {f"{name}Left": weight, f"{name}Right": weight}


EXPRESSIONS: dict[str, ExpressionSpec] = {
    "neutral": ExpressionSpec({}, {}, "closed"),
    "mouth-open": ExpressionSpec({}, {"jaw": (0.26, 0.0, 0.0)}, "open"),
    "smile": ExpressionSpec(_both("mouthSmile", 0.9) | _both("cheekSquint", 0.5), {"neck": (0.02, 0.06, 0.0)}),
    "surprise": ExpressionSpec(
        {"browInnerUp": 0.9} | _both("browOuterUp", 0.8) | _both("eyeWide", 0.6), {"jaw": (0.16, 0.0, 0.0)}
    ),
    "pucker": ExpressionSpec({"mouthPucker": 0.8}, {"neck": (0.0, -0.12, 0.06)}),
    "eyes-shut": ExpressionSpec(_both("eyeBlink", 1.0), {}),
    "frown": ExpressionSpec(_both("browDown", 0.9) | _both("mouthFrown", 0.7), {}),
    "grin": ExpressionSpec(_both("mouthSmile", 0.8) | _both("mouthUpperUp", 0.4), {"jaw": (0.1, 0.0, 0.0)}),
    "cheeks-puffed": ExpressionSpec({"cheekPuff": 0.9}, {}),
    "sneer": ExpressionSpec(_both("noseSneer", 0.9) | _both("mouthUpperUp", 0.5), {"neck": (0.1, 0.0, 0.0)}),
    "mouth-left": ExpressionSpec({"mouthLeft": 0.8}, {"jaw": (0.02, 0.05, 0.0)}),
    "head-down": ExpressionSpec({}, {"neck": (0.18, 0.05, 0.0)}),
}
"""What a subject performs, in this order."""


@dataclass(frozen=True)
class Subject:
    """One person; everything about them that no expression changes."""

    identity: Float[ndarray, " n_identity"]
    seed: int
    """Seed of the fields that are fixed to the skin."""
    hair_mm: float
    """Mean thickness of the hair."""
    relief: float
    """Strength of deviation and relief; 1 is usual."""
    skin: Float[ndarray, " 3"]
    """sRGB in [0, 1]."""
    hair: Float[ndarray, " 3"]
    iris: Float[ndarray, " 3"]


_SKIN = np.array([(0.93, 0.76, 0.67), (0.87, 0.67, 0.55), (0.77, 0.56, 0.43), (0.60, 0.41, 0.30), (0.44, 0.30, 0.22)])
_HAIR = np.array([(0.11, 0.09, 0.08), (0.23, 0.15, 0.10), (0.36, 0.24, 0.14), (0.52, 0.40, 0.24), (0.42, 0.40, 0.38)])
_IRIS = np.array([(0.25, 0.15, 0.08), (0.32, 0.26, 0.14), (0.30, 0.40, 0.46), (0.34, 0.42, 0.30)])


def draw_subject(n_identity: int, *, rng: np.random.Generator) -> Subject:
    """Draw a person."""
    identity = np.clip(rng.standard_normal(n_identity), -_MAX_COEFFICIENT, _MAX_COEFFICIENT) * _IDENTITY_SPREAD
    tone = rng.uniform(0, len(_SKIN) - 1.001)
    low = int(tone)
    skin = _SKIN[low] + (tone - low) * (_SKIN[low + 1] - _SKIN[low])
    # Dark skin and fair hair are rare together.
    hair = _HAIR[rng.integers(0, len(_HAIR) if tone < 2 else 2)]
    iris = _IRIS[rng.integers(0, len(_IRIS) if tone < 2 else 1)]
    return Subject(
        identity, int(rng.integers(0, 2**31)), float(rng.uniform(4, 13)), float(rng.uniform(0.7, 1.3)), skin, hair, iris
    )


@dataclass(frozen=True)
class PosedSurface:
    """The clean surface that the sensor looks at, and what is painted on it."""

    vertices: Float[ndarray, "n 3"]
    """With hair."""
    skin: Float[ndarray, "n 3"]
    """Without hair."""
    faces: Int[ndarray, "m 3"]
    material: Float[ndarray, "n 3"]
    hair: Float[ndarray, " n"]
    """In [0, 1]: how far a vertex is covered."""
    n_template_vertices: int
    """The first so many vertices are the template's, in its order."""
    n_tongue_vertices: int
    """The last so many vertices are the tongue's."""


class HeadSurface:
    """Poses subjects of one model; holds what depends on the model alone."""

    def __init__(self, head_map: HeadMap, *, levels: int = _LEVELS) -> None:
        """Subdivide the model's faces."""
        model = head_map.model
        self.head_map = head_map
        self.hierarchy: list[Subdivision] = subdivision_hierarchy(model.faces, model.n_vertices, levels)
        self.faces, _ = subdivided_faces(self.hierarchy, model.faces)
        self.material = self._smooth(model.v_template * MM_PER_METRE)
        self.tongue, self._tongue_faces = tongue_shape()
        self.cover = np.clip(self.refined(head_map.hair), 0, 1)

    def refined(self, values: Float[ndarray, "n_coarse ..."]) -> Float[ndarray, "n ..."]:
        """Carry values from the model's vertices to the surface's."""
        return subdivide_values(self.hierarchy, values)

    def pose(self, subject: Subject, expression: ExpressionSpec) -> PosedSurface:
        """Give a subject's surface in an expression."""
        model, coefficients = self.head_map.model, self.coefficients(subject, expression)
        coarse = model.posed(coefficients) * MM_PER_METRE
        smooth = self._smooth(coarse)
        normals = vertex_normals(smooth, self.faces)
        skin = smooth + self._deviation(subject)[:, None] * normals
        cover = hair_cover(self.cover, self.material, subject.seed)
        thickness = cover * _hair_thickness(self.material, subject)
        jaw = model.joint("jaw")
        turn = np.eye(3) if jaw is None else model.skeleton(coefficients).world[jaw]
        tongue = coarse[self.head_map.lower_rim].mean(0) + self.tongue @ turn.T
        return PosedSurface(
            vertices=np.concatenate([skin + thickness[:, None] * normals, tongue]),
            skin=np.concatenate([skin, tongue]),
            faces=np.concatenate([self.faces, self._tongue_faces + len(skin)]),
            material=np.concatenate([self.material, self.head_map.lower_lip.mean(0) + self.tongue]),
            hair=np.concatenate([cover, np.zeros(len(tongue))]),
            n_template_vertices=model.n_vertices,
            n_tongue_vertices=len(tongue),
        )

    def _smooth(self, vertices: Float[ndarray, "n_coarse 3"]) -> Float[ndarray, "n 3"]:
        """Refine positions as the registration does, so that its vertices can be held against the truth."""
        return subdivide_surface(self.hierarchy, self.head_map.model.faces, vertices)

    def coefficients(self, subject: Subject, expression: ExpressionSpec) -> Coefficients:
        """Give the model's coefficients; names that the model lacks are left out."""
        model = self.head_map.model
        joints = {name: np.array(r, float) for name, r in expression.rotations.items() if name in model.joint_names}
        return model.coefficients(subject.identity, self._weights(expression), joints)

    def _weights(self, expression: ExpressionSpec) -> Float[ndarray, " n_expression"]:
        names = [_canonical_name(name) for name in self.head_map.model.expression_names]
        out = np.zeros(self.head_map.model.n_expression)
        for wanted, value in expression.weights.items():
            # Some models split into two sides what ARKit has as one.
            for index, name in enumerate(names):
                if name in (wanted, f"{wanted}Left", f"{wanted}Right"):
                    out[index] = value
        return out

    def _deviation(self, subject: Subject) -> Float[ndarray, " n"]:
        m, seed = self.material, subject.seed
        deviation = 1.1 * smooth_noise(m, 45.0, seed + 1) + 0.35 * smooth_noise(m, 16.0, seed + 2)
        deviation += 0.07 * smooth_noise(m, 5.0, seed + 3, octaves=2)
        # Eyes and the inside of the mouth stay as they are: lids must not cut into eyeballs.
        return subject.relief * deviation * (1 - self.refined(self.head_map.fixed))


def hair_cover(cover: Float[ndarray, " n"], material: Float[ndarray, "n 3"], seed: int) -> Float[ndarray, " n"]:
    """Make the template's soft hair region a hairline of this subject."""
    ragged = cover + 0.16 * smooth_noise(material, 12.0, seed + 4, octaves=2) * (cover > 0)
    t = np.clip((ragged - 0.35) / 0.4, 0, 1)
    return t * t * (3 - 2 * t)


def _hair_thickness(material: Float[ndarray, "n 3"], subject: Subject) -> Float[ndarray, " n"]:
    bulk = 1 + 0.4 * smooth_noise(material, 30.0, subject.seed + 5, octaves=2)
    # Locks run down, so they vary quickly across and slowly along.
    locks = 0.12 * smooth_noise(material, (4.0, 22.0, 4.0), subject.seed + 6)
    return subject.hair_mm * np.clip(bulk + locks, 0.25, 2.0)


def _canonical_name(name: str) -> str:
    return name.replace("_L", "Left").replace("_R", "Right")
