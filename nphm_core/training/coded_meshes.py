"""Registered meshes as training keeps them on the device: coded vertices and normals, and areas to draw triangles by.

A vertex takes ten bytes on either side of a pair: a position in 16-bit steps of the scan's box, off by 2.5 micrometres
at most for a head, and a normal on an octahedron, off by less than 1e-4 radians. All is computed on the device.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int16, UInt8
from numpy import ndarray
from torch import Tensor

from nphm_core.errors import SamplingError
from nphm_core.template.template import topology_hash

CODE_STEPS, HALF_RANGE = 65535, 32768
TRUST_STEPS, NORMAL_STEPS = 255, 32767
BEYOND = 2.0
"""Entry of the cumulative areas that no random number below one reaches."""


@dataclass(frozen=True)
class CodedPair:
    """Both meshes of a scan; the first side is the canonical one."""

    vertex: Int16[Tensor, "2 n_vertices 5"]
    """Position and normal."""
    weight: UInt8[Tensor, " n_vertices"]
    cumulative: Float[Tensor, "2 n_faces"]
    """Share of the area of the triangles up to each one."""
    low: Float[Tensor, " 3"]
    """Position of the code zero."""
    step: Float[Tensor, " 3"]

    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""
        return sum(t.numel() * t.element_size() for t in (self.vertex, self.weight, self.cumulative))


class Topology:
    """One table of faces on the device, with the triangles around each vertex."""

    def __init__(self, faces: Int[ndarray, "n_faces 3"], device: torch.device) -> None:
        """Prepare; triangles of fewer than three different corners have no area and are around no vertex."""
        self.faces = torch.as_tensor(np.asarray(faces), dtype=torch.int64, device=device)
        proper = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
        face, corner = np.nonzero(proper[:, None] & np.ones(3, bool))
        vertex = faces[face, corner]
        order = np.argsort(vertex, kind="stable")
        vertex, face = vertex[order], face[order]
        n_vertices = int(faces.max(initial=-1)) + 1
        count = np.bincount(vertex, minlength=n_vertices)
        place = np.arange(len(vertex)) - np.repeat(np.cumsum(count) - count, count)
        # Filled up with a triangle that is none. Sums in a fixed order: the same bits each time, on a GPU too.
        around = np.full((n_vertices, max(int(count.max(initial=0)), 1)), len(faces))
        around[vertex, place] = face
        self._around = torch.as_tensor(around, device=device)

    def normals_and_areas(
        self, vertices: Float[Tensor, "2 n_vertices 3"]
    ) -> tuple[Float[Tensor, "2 n_vertices 3"], Float[Tensor, "2 n_faces"]]:
        """Give unit vertex normals, weighted by area and zero where no triangle meets, and the triangles' areas."""
        a, b, c = (vertices[:, self.faces[:, k]] for k in range(3))
        cross = torch.linalg.cross(b - a, c - a)
        padded = torch.cat([cross, cross.new_zeros(len(cross), 1, 3)], dim=1)
        normals = torch.zeros_like(vertices)
        normals[:, : len(self._around)] = padded[:, self._around].sum(dim=2)
        return torch.nn.functional.normalize(normals, dim=2, eps=1e-30), cross.norm(dim=2) / 2

    def coded(
        self,
        canonical: Float[ndarray, "n_vertices 3"],
        posed: Float[ndarray, "n_vertices 3"],
        weight: Float[ndarray, " n_vertices"],
        min_weight: float,
    ) -> CodedPair:
        """Code a pair of meshes; triangles of less mean trust than `min_weight` get no share of the area."""
        device = self.faces.device
        sides = torch.as_tensor(np.stack([canonical, posed]), dtype=torch.float32, device=device)
        trust = torch.as_tensor(np.asarray(weight), dtype=torch.float32, device=device)
        low, high = sides.flatten(0, 1).min(dim=0).values, sides.flatten(0, 1).max(dim=0).values
        step = ((high - low) / CODE_STEPS).clamp_min(1e-11)
        position = ((sides - low) / step).round().clamp(0, CODE_STEPS) - HALF_RANGE
        normals, area = self.normals_and_areas(sides)
        area = area * (trust[self.faces].mean(dim=1) >= min_weight)
        return CodedPair(
            vertex=torch.cat([position.to(torch.int16), encode_normals(normals)], dim=2),
            weight=(trust.clamp(0, 1) * TRUST_STEPS).round().to(torch.uint8),
            cumulative=_cumulative(area),
            low=low + HALF_RANGE * step,
            step=step,
        )


class Topologies:
    """Every different table of faces, once."""

    def __init__(self, device: torch.device) -> None:
        """There is none yet."""
        self._device = device
        self._all: list[Topology] = []
        self._rows: dict[str, int] = {}
        self._last: tuple[ndarray | None, int] = (None, -1)

    def row_of(self, faces: Int[ndarray, "n_faces 3"]) -> int:
        """Give the row of a table, which is added if it is new."""
        # Scans that follow one another mostly share the very same array.
        if faces is not self._last[0]:
            key = topology_hash(len(faces), faces)
            if key not in self._rows:
                self._rows[key] = len(self._all)
                self._all.append(Topology(faces, self._device))
            self._last = (faces, self._rows[key])
        return self._last[1]

    def __getitem__(self, row: int) -> Topology:
        """Give the topology of a row."""
        return self._all[row]

    def table(self) -> Int[Tensor, "n_topologies n_faces 3"]:
        """Give all tables as one; the rows of the shorter ones are filled up."""
        n_faces = max(len(topology.faces) for topology in self._all)
        out = torch.zeros((len(self._all), n_faces, 3), dtype=torch.int64, device=self._device)
        for row, topology in enumerate(self._all):
            out[row, : len(topology.faces)] = topology.faces
        return out


def encode_normals(normals: Float[Tensor, "... 3"]) -> Int16[Tensor, "... 2"]:
    """Code unit normals on an octahedron."""
    flat = normals[..., :2] / normals.abs().sum(dim=-1, keepdim=True).clamp_min(1e-30)
    folded = (1 - flat.flip(-1).abs()) * torch.where(flat >= 0, 1.0, -1.0)
    return (torch.where(normals[..., 2:] < 0, folded, flat) * NORMAL_STEPS).round().to(torch.int16)


def decode_normals(codes: Int16[Tensor, "... 2"]) -> Float[Tensor, "... 3"]:
    """Undo `encode_normals`."""
    return decode_octahedron(codes.float() / NORMAL_STEPS)


def decode_octahedron(flat: Float[Tensor, "... 2"]) -> Float[Tensor, "... 3"]:
    """Give the unit vectors of points on the unfolded octahedron (Cigolle et al., JCGT 2014)."""
    z = 1 - flat.abs().sum(-1, keepdim=True)
    # Where z is negative the plane was folded over its diagonals.
    flat = flat - flat.sign() * (-z).clamp_min(0)
    return torch.nn.functional.normalize(torch.cat([flat, z], dim=-1), dim=-1)


def _cumulative(area: Float[Tensor, "2 n_faces"]) -> Float[Tensor, "2 n_faces"]:
    total = area.double().cumsum(dim=1)
    if not bool((total[:, -1] > 0).all()):
        raise SamplingError(
            "no triangle of the two registered meshes is trusted; expected most of the face. "
            "One of the two registrations has probably failed: look at their quality pictures"
        )
    out = (total / total[:, -1:]).float()
    # From the last triangle with any area on, beyond every random number below one.
    return torch.where(out >= 1, BEYOND, out)
