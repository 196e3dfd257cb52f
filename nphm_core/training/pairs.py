"""Expression samples where training draws them: registered meshes on the device, pairs drawn anew in every step.

A scan is two registered meshes of one topology, canonical and posed, and the trust in each vertex; scans of different
topologies may lie in one set. Half of a step's pairs are drawn by area on the canonical mesh, half on the posed one,
each moved along both meshes' interpolated vertex normals by the same offset: in distribution what
`supervision.sample_delta.DeltaPairs` draws, for all scans of a step at once. Positions are in canonical units.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from nphm_core.errors import SamplingError, TopologyError, TrainingError
from nphm_core.geometry.mesh import face_normals, vertex_normals
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.supervision.quantise import Box, decode_positions
from nphm_core.supervision.sample_delta import OFFSET_STD_MM
from nphm_core.supervision.sample_file import DELTA_KIND, MappedFile
from nphm_core.template.template import topology_hash
from nphm_core.training.draws import Part, normal, uniform

_CODE_STEPS = 65535
_HALF_RANGE = 32768
_NORMAL_STEPS = 32767
_TRUST_STEPS = 255


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
    def from_file(cls, path: Path, faces: Int[ndarray, "n_faces 3"], n_vertices: int) -> "RegisteredPair":
        """Read what `write_delta_samples` wrote; `faces` are those of any registered mesh of the same template."""
        file = MappedFile(path, DELTA_KIND)
        found = topology_hash(n_vertices, faces)
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
        weight[kept] = file["weight"] / float(_TRUST_STEPS)
        if "vertex" in file:
            stored = np.zeros(n_vertices, bool)
            stored[kept] = True
            # A triangle that lost a corner is drawn from no more, nor does it count in the normals.
            faces = np.where(stored[faces].all(1, keepdims=True), faces, faces[:, :1])
        return cls(sides[0], sides[1], weight, faces)


@dataclass(frozen=True)
class _CodedScan:
    """One scan as it lies on the device; sides are the canonical and the posed mesh."""

    position: ndarray
    normal: ndarray
    weight: ndarray
    cumulative: ndarray
    low: ndarray
    step: ndarray

    @classmethod
    def of(cls, pair: RegisteredPair, min_weight: float) -> "_CodedScan":
        sides = np.stack([pair.canonical, pair.posed])
        box = Box.around(pair.canonical, pair.posed)
        codes = np.rint((sides - box.low) / box.step).astype(np.int64).clip(0, _CODE_STEPS) - _HALF_RANGE
        normals = np.stack([vertex_normals(side, pair.faces) for side in sides])
        kept = pair.weight[pair.faces].mean(1) >= min_weight
        area = np.stack([face_normals(side, pair.faces)[1] * kept for side in sides])
        if not (area.sum(1) > 0).all():
            raise SamplingError(
                "no triangle of the two registered meshes is trusted; expected most of the face. "
                "One of the two registrations has probably failed: look at their quality pictures"
            )
        return cls(
            codes.astype(np.int16),
            _code_normals(normals),
            np.rint(pair.weight.clip(0, 1) * _TRUST_STEPS).astype(np.uint8),
            _cumulative(area),
            (box.low + _HALF_RANGE * box.step).astype(np.float32),
            box.step.astype(np.float32),
        )


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
        self._subject = torch.as_tensor(subject, dtype=torch.int64, device=device)
        topologies = _Topologies()
        coded = [(topologies.row_of(pair.faces), _CodedScan.of(pair, min_weight)) for pair in pairs]
        if len(coded) != len(scans):
            raise ValueError(f"there are {len(coded)} pairs of meshes for {len(scans)} scans")
        self._topology = torch.tensor([row for row, _ in coded], device=device)
        self._faces = topologies.table().to(device)
        n, n_faces, n_vertices = len(coded), self._faces.shape[1], max(len(scan.weight) for _, scan in coded)
        bytes_a_scan = 2 * (10 * n_vertices + 4 * n_faces) + n_vertices
        self.is_resident = n * bytes_a_scan <= max_megabytes * 1e6
        home = device if self.is_resident else torch.device("cpu")
        self._position = torch.zeros((n, 2, n_vertices, 3), dtype=torch.int16, device=home)
        self._normal = torch.zeros((n, 2, n_vertices, 2), dtype=torch.int16, device=home)
        self._weight = torch.zeros((n, n_vertices), dtype=torch.uint8, device=home)
        # Faces that a smaller topology lacks lie beyond every random number.
        self._cumulative = torch.full((n, 2, n_faces), 2.0, device=home)
        self._low, self._step = (torch.zeros((n, 3), device=device) for _ in range(2))
        for row, (_, scan) in enumerate(coded):
            self._put(row, scan)

    def _put(self, row: int, coded: _CodedScan) -> None:
        for name in ("position", "normal"):
            values = getattr(coded, name)
            getattr(self, f"_{name}")[row, :, : values.shape[1]] = torch.from_numpy(values)
        self._weight[row, : len(coded.weight)] = torch.from_numpy(coded.weight)
        self._cumulative[row, :, : coded.cumulative.shape[1]] = torch.from_numpy(coded.cumulative)
        self._low[row], self._step[row] = torch.from_numpy(coded.low), torch.from_numpy(coded.step)

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
        home = scan.to(self._position.device)
        corner = self._draw_corners(scan, home, n_pairs, part, generator)
        random = uniform((3, n_pairs), part, generator)
        root = random[:, 0].sqrt()
        barycentric = torch.stack([1 - root, root * (1 - random[:, 1]), root * random[:, 1]], dim=2)
        std = torch.tensor(std_mm, device=self.device) / MM_PER_CANONICAL_UNIT
        which = (random[:, 2] * len(std_mm)).long().clamp_max(len(std_mm) - 1)
        offset = std[which] * normal((n_pairs,), part, generator)
        sides = [self._points(side, scan, home, corner, barycentric, offset) for side in (0, 1)]
        weight = self._gather(self._weight, home, corner).float() / _TRUST_STEPS
        return PairBatch(scan, self._subject[scan], sides[0], sides[1], (weight * barycentric).sum(2))

    def _draw_corners(
        self, scan: Tensor, home: Tensor, n_pairs: int, part: Part, generator: torch.Generator
    ) -> Int[Tensor, "n_scans n_pairs 3"]:
        """Draw triangles, half by either mesh's area, and give their corners."""
        n_half = (n_pairs + 1) // 2
        fraction = uniform((2, n_half), part, generator)
        cumulative = self._cumulative[home].to(self.device, non_blocking=True)
        face = torch.searchsorted(cumulative, fraction, right=True).flatten(1)[:, :n_pairs]
        return self._faces[self._topology[scan][:, None], face].long()

    def _points(
        self, side: int, scan: Tensor, home: Tensor, corner: Tensor, barycentric: Tensor, offset: Tensor
    ) -> Float[Tensor, "n_scans n_pairs 3"]:
        code = self._gather(self._position[:, side], home, corner).float()
        weights = barycentric[..., None]
        points = torch.addcmul(self._low[scan][:, None], (weights * code).sum(2), self._step[scan][:, None])
        direction = (weights * _decode_normals(self._gather(self._normal[:, side], home, corner))).sum(2)
        return points + offset[..., None] * torch.nn.functional.normalize(direction, dim=-1)

    def _gather(self, table: Tensor, home: Tensor, corner: Tensor) -> Tensor:
        if self.is_resident:
            return table[home[:, None, None], corner]
        # Of a mesh in the computer's memory, the whole is smaller than the round trip for its corners.
        rows = torch.arange(len(home), device=self.device)[:, None, None]
        return table[home].to(self.device, non_blocking=True)[rows, corner]


class _Topologies:
    """Every different table of faces, once."""

    def __init__(self) -> None:
        self._tables: list[ndarray] = []
        self._rows: dict[str, int] = {}
        self._last: tuple[ndarray | None, int] = (None, -1)

    def row_of(self, faces: Int[ndarray, "n 3"]) -> int:
        # Scans that follow one another mostly share the very same array.
        if faces is not self._last[0]:
            key = topology_hash(len(faces), faces)
            if key not in self._rows:
                self._rows[key] = len(self._tables)
                self._tables.append(faces)
            self._last = (faces, self._rows[key])
        return self._last[1]

    def table(self) -> Int[Tensor, "n_topologies n_faces 3"]:
        out = torch.zeros((len(self._tables), max(map(len, self._tables)), 3), dtype=torch.int32)
        for row, faces in enumerate(self._tables):
            out[row, : len(faces)] = torch.as_tensor(faces, dtype=torch.int32)
        return out


def _cumulative(area: Float[ndarray, "2 n_faces"]) -> Float[ndarray, "2 n_faces"]:
    total = np.cumsum(area, axis=1)
    out = (total / total[:, -1:]).astype(np.float32)
    # From the last triangle with any area on, beyond every random number below one.
    out[out >= 1] = 2.0
    return out


def _code_normals(normals: Float[ndarray, "2 n 3"]) -> ndarray:
    """Code unit normals on an octahedron with 16 bits an axis: off by less than 1e-4 radians."""
    flat = normals[..., :2] / np.maximum(np.abs(normals).sum(-1, keepdims=True), 1e-300)
    folded = (1 - np.abs(flat[..., ::-1])) * np.where(flat >= 0, 1.0, -1.0)
    flat = np.where(normals[..., 2:] < 0, folded, flat)
    return np.rint(flat * _NORMAL_STEPS).astype(np.int16)


def _decode_normals(codes: Tensor) -> Tensor:
    flat = codes.float() / _NORMAL_STEPS
    z = 1 - flat.abs().sum(-1, keepdim=True)
    fold = (-z).clamp_min(0)
    flat = flat - torch.where(flat >= 0, fold, -fold)
    return torch.nn.functional.normalize(torch.cat([flat, z], dim=-1), dim=-1)
