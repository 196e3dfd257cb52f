"""Expression samples where training draws them: registered meshes on the device, pairs drawn anew in every step.

A scan is two registered meshes of one topology, canonical and posed, and the trust in each vertex; scans of different
topologies may lie in one set. Half of a step's pairs are drawn by area on the canonical mesh, half on the posed one,
each moved along both meshes' interpolated vertex normals by the same offset: in distribution what
`supervision.sample_delta.DeltaPairs` draws, for all scans of a step at once. Positions are in canonical units.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from nphm_core.errors import SamplingError, TopologyError, TrainingError
from nphm_core.models.dispatch import has_kernels
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.supervision.quantise import Box, decode_positions
from nphm_core.supervision.sample_delta import OFFSET_STD_MM
from nphm_core.supervision.sample_file import DELTA_KIND, MappedFile
from nphm_core.template.template import topology_hash
from nphm_core.training.coded_meshes import BEYOND, TRUST_STEPS, CodedPair, Topologies, decode_normals
from nphm_core.training.draws import Part, normal, uniform


@dataclass(frozen=True)
class PairBatch:
    """Corresponding points of some scans."""

    scan: Int[Tensor, " n_scans"]
    """Row of each scan in the codebook of expressions."""
    subject: Int[Tensor, " n_scans"]
    """Row of its subject in the codebook of identities."""
    canonical: Float[Tensor, "n_scans n_pairs 3"]
    posed: Float[Tensor, "n_scans n_pairs 3"]
    weight: Float[Tensor, "n_scans n_pairs"]
    """Trust in [0, 1]."""


@dataclass(frozen=True)
class RegisteredPair:
    """The two registered meshes of a scan, in canonical space."""

    canonical: Float[ndarray, "n_vertices 3"]
    posed: Float[ndarray, "n_vertices 3"]
    weight: Float[ndarray, " n_vertices"]
    """Trust in [0, 1]: the lesser of the two registrations' weights."""
    faces: Int[ndarray, "n_faces 3"]
    """Scans of one topology may share one array."""

    @classmethod
    def from_file(
        cls, path: Path, faces: Int[ndarray, "n_faces 3"], n_vertices: int, *, topology: str | None = None
    ) -> "RegisteredPair":
        """Read what `write_delta_samples` wrote; `faces` are those of any registered mesh of the same template.

        `topology` is their hash; whoever reads many files computes it once.
        """
        file = MappedFile(path, DELTA_KIND)
        found = topology or topology_hash(n_vertices, faces)
        if found != file.facts["topology"]:
            raise TopologyError(
                f"the faces given have topology {found[:8]}; expected {file.facts['topology'][:8]}, with which the "
                f"samples were made. Use the registered meshes of the same run. File {path}"
            )
        if "canonical.position" not in file:
            raise SamplingError(
                "the file holds the posed mesh only; pairs need the subject's canonical neutral as well. Mark it in "
                f"the scan table, or see why its registration failed, and run sample_delta again. File {path}"
            )
        box = Box.from_json(file.facts["box"])
        kept = np.asarray(file["vertex"], np.int64) if "vertex" in file else np.arange(n_vertices)
        sides = []
        for name in ("canonical", "posed"):
            side = np.zeros((n_vertices, 3))
            side[kept] = decode_positions(file[f"{name}.position"], box)
            sides.append(side)
        weight = np.zeros(n_vertices)
        weight[kept] = file["weight"] / float(TRUST_STEPS)
        if "vertex" in file:
            stored = np.zeros(n_vertices, bool)
            stored[kept] = True
            # A triangle that lost a corner is drawn from no more, nor does it count in the normals.
            faces = np.where(stored[faces].all(1, keepdims=True), faces, faces[:, :1])
        return cls(sides[0], sides[1], weight, faces)


class PairSamples:
    """Registered meshes of all scans, from which pairs are drawn on one device.

    The meshes lie on the device, or in the computer's memory if they take more than the limit: then a step copies those
    of its scans.
    """

    def __init__(
        self,
        scans: Sequence[str],
        subject: Int[ndarray, " n_scans"],
        pairs: Iterable[RegisteredPair],
        *,
        device: torch.device,
        max_megabytes: float = 24_000.0,
        min_weight: float = 0.05,
    ) -> None:
        """Prepare drawing, taking `pairs` one by one; triangles of less mean trust than `min_weight` are left out."""
        if not scans:
            raise TrainingError(
                "no scan has a registered pair to train on; expected at least one expression of a subject whose "
                "canonical neutral is registered. See why in the summary of the scans, mend it, and run again."
            )
        self.scans, self.device = tuple(scans), device
        self._std: dict[tuple[float, ...], Tensor] = {}
        self._subject = torch.as_tensor(subject, dtype=torch.int64, device=device)
        topologies, coded = Topologies(device), []
        self.is_resident = True
        for pair in pairs:
            row = topologies.row_of(pair.faces)
            made = topologies[row].coded(pair.canonical, pair.posed, pair.weight, min_weight)
            self.is_resident = self.is_resident and len(scans) * made.n_bytes <= max_megabytes * 1e6
            coded.append((row, made if self.is_resident else _moved(made, torch.device("cpu"))))
        if len(coded) != len(scans):
            raise ValueError(f"there are {len(coded)} pairs of meshes for {len(scans)} scans")
        self._topology = torch.tensor([row for row, _ in coded], device=device)
        self._faces = topologies.table()
        self._allocate([made for _, made in coded], device if self.is_resident else torch.device("cpu"))

    def _allocate(self, coded: list[CodedPair], home: torch.device) -> None:
        n, n_faces, n_vertices = len(coded), self._faces.shape[1], max(len(one.weight) for one in coded)
        self._vertex = torch.zeros((n, 2, n_vertices, 5), dtype=torch.int16, device=home)
        self._weight = torch.zeros((n, n_vertices), dtype=torch.uint8, device=home)
        # Triangles that a smaller topology lacks are beyond every random number.
        self._cumulative = torch.full((n, 2, n_faces), BEYOND, device=home)
        self._low, self._step = (torch.zeros((n, 1, 1, 3), device=self.device) for _ in range(2))
        for row, one in enumerate(coded):
            self._vertex[row, :, : one.vertex.shape[1]] = one.vertex
            self._weight[row, : len(one.weight)] = one.weight
            self._cumulative[row, :, : one.cumulative.shape[1]] = one.cumulative
            self._low[row], self._step[row] = one.low.to(self.device), one.step.to(self.device)

    @property
    def subject(self) -> Int[Tensor, " n_scans"]:
        """Row of each scan's subject in the codebook of identities."""
        return self._subject

    def draw(
        self,
        scan: Int[Tensor, " n_batch"],
        n_pairs: int,
        part: Part,
        *,
        generator: torch.Generator,
        std_mm: tuple[float, ...] = OFFSET_STD_MM,
    ) -> PairBatch:
        """Draw pairs of the part of a batch of scans; the generator is the step's."""
        scan = part(scan)
        if std_mm not in self._std:
            self._std[std_mm] = torch.tensor(std_mm, device=self.device) / MM_PER_CANONICAL_UNIT
        std = self._std[std_mm]
        # Half of the triangles are drawn by either mesh's area.
        fraction = uniform((2, (n_pairs + 1) // 2), part, generator)
        random = uniform((3, n_pairs), part, generator)
        offset = normal((n_pairs,), part, generator)
        if has_kernels(self._low) and self.is_resident:
            from nphm_core.training.step_kernels import draw_pairs

            meshes = (self._topology, self._faces, self._cumulative, self._vertex, self._weight, self._low, self._step)
            sides, weight = draw_pairs(meshes, scan, (fraction, random, offset), std)
            return PairBatch(scan, self._subject[scan], sides[0], sides[1], weight)
        home = scan.to(self._vertex.device)
        corner = self._corners_at(scan, home, fraction, n_pairs)
        root = random[:, 0].sqrt()
        barycentric = torch.stack([1 - root, root * (1 - random[:, 1]), root * random[:, 1]], dim=2)
        offset = std[(random[:, 2] * len(std_mm)).long().clamp_max(len(std_mm) - 1)] * offset
        sides = self._points(scan, home, corner, barycentric, offset)
        weight = _corners(self._here(self._weight, home)[:, None], corner)[:, 0].float() / TRUST_STEPS
        return PairBatch(scan, self._subject[scan], sides[:, 0], sides[:, 1], (weight * barycentric).sum(2))

    def _corners_at(
        self, scan: Tensor, home: Tensor, fraction: Float[Tensor, "n_scans 2 n_half"], n_pairs: int
    ) -> Int[Tensor, "n_scans n_pairs 3"]:
        """Give the corners of the triangles up to which there is a fraction of either mesh's area."""
        face = torch.searchsorted(self._here(self._cumulative, home), fraction, right=True)
        return self._faces[self._topology[scan][:, None], face.flatten(1)[:, :n_pairs]]

    def _points(
        self, scan: Tensor, home: Tensor, corner: Tensor, barycentric: Tensor, offset: Tensor
    ) -> Float[Tensor, "n_scans 2 n_pairs 3"]:
        """Give the points on both sides."""
        code = _corners(self._here(self._vertex, home), corner)
        weights = barycentric[:, None, ..., None]
        points = torch.addcmul(self._low[scan], (weights * code[..., :3]).sum(3), self._step[scan])
        direction = (weights * decode_normals(code[..., 3:])).sum(3)
        return points + offset[:, None, :, None] * torch.nn.functional.normalize(direction, dim=-1)

    def _here(self, table: Tensor, home: Tensor) -> Tensor:
        """Give the rows of scans, on the device of the draw."""
        # On the device a copy of some megabytes costs less than the indices that would spare it.
        return table[home].to(self.device, non_blocking=True)


def _corners(table: Tensor, corner: Int[Tensor, "n_scans n_pairs 3"]) -> Tensor:
    """Give what a table with a row for each scan, side and vertex holds at corners: by scan, side, pair and corner."""
    n_scans, n_sides, n_vertices = table.shape[:3]
    first = torch.arange(n_scans * n_sides, device=table.device).view(n_scans, n_sides, 1, 1) * n_vertices
    return table.flatten(0, 2)[first + corner[:, None]]


def _moved(coded: CodedPair, home: torch.device) -> CodedPair:
    return CodedPair(**{field.name: getattr(coded, field.name).to(home) for field in fields(coded)})
