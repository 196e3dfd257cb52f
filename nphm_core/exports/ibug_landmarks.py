"""The 68 iBUG landmarks, and the 7 of the NoW benchmark among them, on meshes in a template's topology.

A head model may bring the 68 itself. FLAME's topology has the vertices that NPHM's code uses. For any other template
the 51 inner ones are taken where the landmark embedding has MediaPipe's nearest point: that is another definition of
the same landmark, 2 to 5 mm off for some, and MediaPipe has nothing that stays on the jaw line.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.errors import ExportError
from nphm_core.template.anchors import FLAME_TOPOLOGY
from nphm_core.template.template import Template

NOW7 = (36, 39, 42, 45, 33, 48, 54)
"""Corners of the eyes from the picture's left to its right, the point under the nose, corners of the mouth."""

# fmt: off
FLAME_IBUG68 = (
    2212, 3060, 3485, 3384, 3386, 3389, 3418, 3395, 3414, 3598, 3637, 3587, 3582, 3580, 3756, 2012, 730, 1984, 3157,
    335, 3705, 3684, 3851, 3863, 16, 2138, 571, 3553, 3561, 3501, 3526, 2748, 2792, 3556, 1675, 1612, 2437, 2383,
    2494, 3632, 2278, 2296, 3833, 1343, 1034, 1175, 884, 829, 2715, 2813, 2774, 3543, 1657, 1696, 1579, 1795, 1865,
    3503, 2948, 2898, 2845, 2785, 3533, 1668, 1730, 1669, 3509, 2786,
)
"""Vertices of the 68 landmarks in FLAME's topology."""

# Landmarks 17 to 67; nearest points on a head model that has both.
_MEDIAPIPE_51 = (
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 168, 197, 195, 4, 240, 97, 2, 326, 460, 33, 160, 158, 133, 153,
    144, 362, 385, 387, 263, 373, 380, 61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 81, 13, 311, 308,
    402, 14, 178,
)
# fmt: on


@dataclass(frozen=True)
class IbugEmbedding:
    """Where landmarks lie on a template."""

    number: Int[ndarray, " n"]
    """Among the 68, from 0."""
    face: Int[ndarray, " n"]
    barycentric: Float[ndarray, "n 3"]
    source: str
    """Where they come from, in words."""

    def points(
        self, vertices: Float[ndarray, "n_vertices 3"], faces: Int[ndarray, "n_faces 3"]
    ) -> Float[ndarray, "n 3"]:
        """Give the landmarks of a mesh whose first faces' corners are these, in its unit."""
        return np.einsum("nk,nkd->nd", self.barycentric, vertices[faces[self.face]])

    def now7(self, vertices: Float[ndarray, "n_vertices 3"], faces: Int[ndarray, "n_faces 3"]) -> Float[ndarray, "7 3"]:
        """Give NoW's seven landmarks, in its order."""
        rows = [int(np.flatnonzero(self.number == k)[0]) for k in NOW7]
        return self.points(vertices, faces)[rows]


def ibug_embedding(template: Template) -> IbugEmbedding:
    """Give a template's 68 landmarks, or the 51 inner ones; ExportError where it has neither."""
    if template.model.landmarks68 is not None:
        face, barycentric = template.model.landmarks68
        return IbugEmbedding(np.arange(68), face, barycentric, "the head model's own 68")
    if (template.n_vertices, len(template.faces)) == FLAME_TOPOLOGY:
        face, barycentric = _at_vertices(np.array(FLAME_IBUG68), template.faces)
        return IbugEmbedding(np.arange(68), face, barycentric, "FLAME's vertices")
    row = {int(number): k for k, number in enumerate(template.landmarks.index)}
    missing = [number for number in _MEDIAPIPE_51 if number not in row]
    if missing:
        raise ExportError(
            f"the template's landmark embedding lacks {len(missing)} of MediaPipe's points for the inner 51 landmarks "
            f"({missing[:5]}); expected all. Make the template again with `python -m pipelines.template`"
        )
    rows = [row[number] for number in _MEDIAPIPE_51]
    embedding = template.landmarks
    source = "MediaPipe's nearest points; no jaw line"
    return IbugEmbedding(np.arange(17, 68), embedding.face[rows], embedding.barycentric[rows], source)


def _at_vertices(
    vertices: Int[ndarray, " n"], faces: Int[ndarray, "n_faces 3"]
) -> tuple[Int[ndarray, " n"], Float[ndarray, "n 3"]]:
    face = np.array([int(np.flatnonzero((faces == v).any(axis=1))[0]) for v in vertices])
    return face, (faces[face] == vertices[:, None]).astype(np.float64)
