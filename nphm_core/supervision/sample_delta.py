"""Training pairs of the expression deformation: the same surface point in the canonical and in the posed scan.

Instead of pairs we store what they are drawn from, the two registered meshes, and draw anew in every training step.
A mesh of 80,000 vertices takes 6 bytes a vertex, so a scan takes about 1 MB (two meshes and the trust), against 48 MB
for NPHM's million stored pairs, and no pair is ever seen twice. A pair has one triangle, barycentric weights and an
offset along the normal, the same on both sides (METHOD 3.2); half are drawn by area on the canonical mesh, half on
the posed one. Offsets go along interpolated vertex normals: NPHM's face normals tear the field at every edge.
Positions and offsets are in canonical units.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.errors import SamplingError, TopologyError
from nphm_core.geometry.mesh import face_normals, vertex_normals
from nphm_core.io.files import write_safetensors
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.supervision.quantise import Box, decode_positions, encode_positions
from nphm_core.supervision.sample_file import DELTA_KIND, MappedFile, common_facts
from nphm_core.template.template import topology_hash

OFFSET_STD_MM = (2.5, 0.5)
"""Standard deviations of the offset along the normal, in turn (METHOD 3.2)."""

_TRUST_STEPS = 255


@dataclass(frozen=True)
class Pairs:
    """Corresponding points in canonical space; `posed - canonical` is the deformation."""

    canonical: Float[ndarray, "n 3"]
    posed: Float[ndarray, "n 3"]
    weight: Float[ndarray, " n"]
    """Trust in [0, 1]: the lesser of the two registrations' weights, interpolated."""


class DeltaPairs:
    """Draws corresponding points of two registered meshes of one topology, without end."""

    def __init__(
        self,
        canonical: Float[ndarray, "n_vertices 3"],
        posed: Float[ndarray, "n_vertices 3"],
        faces: Int[ndarray, "n_faces 3"],
        weight: Float[ndarray, " n_vertices"],
        *,
        min_weight: float = 0.05,
    ) -> None:
        """Prepare drawing; triangles whose mean trust is below `min_weight` are never drawn."""
        kept = weight[faces].mean(1) >= min_weight
        if not kept.any():
            raise SamplingError(
                "no triangle of the two registered meshes is trusted; expected most of the face. "
                "One of the two registrations has probably failed: look at their quality pictures"
            )
        self._faces = faces[kept]
        self._weight = weight
        self._vertices = (canonical, posed)
        self._normals = tuple(vertex_normals(v, faces) for v in self._vertices)
        self._cumulative = []
        for vertices in self._vertices:
            area = face_normals(vertices, self._faces)[1]
            self._cumulative.append(np.cumsum(area) / area.sum())

    def sample(self, n: int, *, rng: np.random.Generator, std_mm: tuple[float, ...] = OFFSET_STD_MM) -> Pairs:
        """Draw pairs: half by area on the canonical mesh, half on the posed one, in random order."""
        faces = self._faces[self._draw_faces(n, rng)]
        root, v = np.sqrt(rng.random(n)), rng.random(n)
        barycentric = np.stack([1 - root, root * (1 - v), root * v], axis=1)
        std = np.array(std_mm)[rng.integers(0, len(std_mm), n)] / MM_PER_CANONICAL_UNIT
        offset = std * rng.standard_normal(n)
        sides = [
            _offset_points(vertices, normals, faces, barycentric, offset)
            for vertices, normals in zip(self._vertices, self._normals, strict=True)
        ]
        return Pairs(sides[0], sides[1], (self._weight[faces] * barycentric).sum(1))

    def _draw_faces(self, n: int, rng: np.random.Generator) -> Int[ndarray, " n"]:
        halves = np.array_split(rng.random(n), 2)
        drawn = [np.searchsorted(c, u, side="right") for c, u in zip(self._cumulative, halves, strict=True)]
        return rng.permutation(np.minimum(np.concatenate(drawn), len(self._faces) - 1))


def write_delta_samples(
    path: Path,
    canonical: Float[ndarray, "n_vertices 3"] | None,
    posed: Float[ndarray, "n_vertices 3"],
    faces: Int[ndarray, "n_faces 3"],
    weight: Float[ndarray, " n_vertices"],
    facts: dict[str, Any],
    *,
    keep: Bool[ndarray, " n_vertices"] | None = None,
) -> dict[str, Any]:
    """Write two registered meshes in canonical space, for `read_delta_pairs`, and give the facts of the file.

    Only vertices marked in `keep` are stored; a triangle survives with all three corners. Without a canonical mesh
    the posed one is stored alone, and no pairs can be drawn.
    """
    ids = np.arange(len(posed)) if keep is None else np.flatnonzero(keep)
    sides = {"posed": posed[ids]} | ({} if canonical is None else {"canonical": canonical[ids]})
    box = Box.around(*sides.values())
    arrays: dict[str, ndarray] = {f"{name}.position": encode_positions(side, box) for name, side in sides.items()}
    arrays["weight"] = np.rint(np.clip(weight[ids], 0, 1) * _TRUST_STEPS).astype(np.uint8)
    if len(ids) < len(posed):
        arrays["vertex"] = ids.astype(np.uint32)
    own = common_facts(DELTA_KIND) | {"box": box.to_json(), "topology": topology_hash(len(posed), faces)}
    write_safetensors(path, arrays, facts | own)
    return own


def read_delta_pairs(
    path: Path, faces: Int[ndarray, "n_faces 3"], n_vertices: int, *, min_weight: float = 0.05
) -> DeltaPairs:
    """Read what `write_delta_samples` wrote; `faces` are those of any registered mesh of the same template.

    Positions are off by 2.5 micrometres at most for a head; normals are made anew from them.
    """
    file = MappedFile(path, DELTA_KIND)
    found = topology_hash(n_vertices, faces)
    if found != file.facts["topology"]:
        raise TopologyError(
            f"the faces given have topology {found[:8]}; expected {file.facts['topology'][:8]}, with which the samples "
            f"were made. Use the registered meshes of the same run. File {path}"
        )
    if "canonical.position" not in file:
        raise SamplingError(
            "the file holds the posed mesh only; pairs need the subject's canonical neutral as well. Mark it in the "
            f"scan table, or see why its registration failed, and run sample_delta again. File {path}"
        )
    box = Box.from_json(file.facts["box"])
    if "vertex" in file:
        new_id = np.full(n_vertices, -1)
        new_id[file["vertex"]] = np.arange(len(file["vertex"]))
        faces = new_id[faces]
        faces = faces[(faces >= 0).all(1)]
    canonical = decode_positions(file["canonical.position"], box)
    posed = decode_positions(file["posed.position"], box)
    return DeltaPairs(canonical, posed, faces, file["weight"] / float(_TRUST_STEPS), min_weight=min_weight)


def _offset_points(vertices, normals, faces, barycentric, offset):
    normal = np.einsum("nk,nka->na", barycentric, normals[faces])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300)
    return np.einsum("nk,nka->na", barycentric, vertices[faces]) + offset[:, None] * normal
