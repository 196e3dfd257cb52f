"""A subject of a trained model, as exports take it: one topology, a canonical head, and its expressions."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.geometry.mesh import Mesh
from nphm_core.spaces import MM_PER_CANONICAL_UNIT


@dataclass(frozen=True)
class ModelSubject:
    """Canonical units, canonical frame."""

    name: str
    faces: Int[ndarray, "n_faces 3"]
    canonical: Float[ndarray, "n 3"]
    posed: dict[str, Float[ndarray, "n 3"]]
    """Vertices by the name of the expression."""

    def meshes(self, mm_per_unit: float) -> dict[str, Mesh]:
        """Give all heads, the canonical one first, in a unit of so many mm."""
        scale = MM_PER_CANONICAL_UNIT / mm_per_unit
        heads = {"canonical": self.canonical} | self.posed
        return {name: Mesh(scale * vertices, self.faces) for name, vertices in heads.items()}

    def offsets_metres(self) -> dict[str, Float[ndarray, "n 3"]]:
        """Give the morph targets: what each expression adds to the canonical head, in metres."""
        scale = MM_PER_CANONICAL_UNIT / 1000
        return {name: scale * (vertices - self.canonical) for name, vertices in self.posed.items()}
