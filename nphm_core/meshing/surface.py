"""The zero set of a field as a triangle mesh.

The mesh is the one that marching cubes makes of the dense grid: the same vertices and triangles in the same order,
whatever part of the grid was evaluated. It is closed but where it leaves the box, and oriented outwards. What is
inside the head (mouth, throat) is there if the field says so.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nphm_core.geometry.mesh import Mesh
from nphm_core.meshing.cube_cases import CORNERS, EDGES, case_triangles
from nphm_core.meshing.grid import HEAD_BOX, Box, Grid, constant
from nphm_core.meshing.octree import CrossedCells, Field, crossed_cells

_POINTS_PER_CALL = {"cpu": 2**14, "cuda": 2**19}


@dataclass(frozen=True)
class Extraction:
    """How a surface is extracted."""

    resolution: int = 256
    """Cells along the longest side of the box."""
    coarse_resolution: int = 32
    """The coarse grid has at least as many cells, if `resolution` has; `resolution` itself is the dense grid."""
    safety: float = 2.0
    """Slope of the field up to which nothing is missed; trained fields are steep where surfaces nearly touch."""
    box: Box = HEAD_BOX
    keep_largest: bool = False
    """Drop all pieces but the one with the largest area."""
    points_per_call: int | None = None
    """None: what suits the device."""

    @property
    def stride(self) -> int:
        """Edge of the coarse cells in fine cells, a power of two."""
        return 2 ** max(0, int(math.log2(max(1.0, self.resolution / self.coarse_resolution))))


@dataclass(frozen=True)
class Surface:
    """An extracted surface."""

    mesh: Mesh
    """In the space and unit of the field's points."""
    n_evaluations: int
    """Points that the field was asked for."""


def extract_surface(field: Field, how: Extraction | None = None, *, device: torch.device | str = "cpu") -> Surface:
    """Extract the zero set of a field; an empty mesh where it has none in the box.

    `device` is where the field wants its points; all work is done there.
    """
    how, device = how or Extraction(), torch.device(device)
    grid = Grid.over(how.box, how.resolution, how.stride)
    per_call = how.points_per_call or _POINTS_PER_CALL.get(device.type, 2**14)
    cells = crossed_cells(field, grid, stride=how.stride, safety=how.safety, points_per_call=per_call, device=device)
    vertices, faces = march(cells, grid)
    mesh = Mesh(vertices.cpu().numpy(), faces.cpu().numpy())
    return Surface(largest_component(mesh) if how.keep_largest else mesh, cells.n_evaluations)


def march(cells: CrossedCells, grid: Grid) -> tuple[Float[Tensor, "n_vertices 3"], Int[Tensor, "n_faces 3"]]:
    """Cut cells into triangles; vertices in the order of their edges, triangles in that of their cells."""
    device = cells.value.device
    inside = cells.value < 0
    case = (inside.long() << torch.arange(8, device=device)).sum(dim=1)
    ends = constant(EDGES, torch.long, device)
    cell, edge = torch.nonzero(inside[:, ends[:, 0]] != inside[:, ends[:, 1]], as_tuple=True)
    offsets = constant(CORNERS, torch.long, device)
    low, axis = cells.corner[cell] + offsets[ends[edge, 0]], edge // 4
    key, vertex = torch.unique(3 * grid.key(low) + axis, return_inverse=True)
    # Every cell at an edge knows the same values: any of them may write.
    of_key = torch.empty_like(key).scatter_(0, vertex, torch.arange(len(cell), device=device))
    at, end = cell[of_key], ends[edge[of_key]]
    first, second = (cells.value[at, end[:, k]].double() for k in (0, 1))
    along = torch.eye(3, dtype=torch.float64, device=device)[axis[of_key]]
    vertices = grid.place(low[of_key] + (first / (first - second))[:, None] * along)
    vertex_of_edge = torch.full((len(case), 12), -1, device=device)
    vertex_of_edge[cell, edge] = vertex
    triangles = torch.as_tensor(case_triangles(), device=device)[case].flatten(1)
    faces = vertex_of_edge.gather(1, triangles.clamp_min(0))[triangles >= 0]
    return vertices, faces.unflatten(0, (-1, 3))


def largest_component(mesh: Mesh) -> Mesh:
    """Keep the piece with the largest area, its vertices in their order."""
    # Only here: a machine that trains need not have numba.
    from nphm_core.geometry.components import component_areas, connected_components

    if mesh.n_faces == 0:
        return mesh
    label = connected_components(mesh.faces, mesh.n_vertices)
    kept = label == component_areas(mesh.vertices, mesh.faces, label).argmax()
    number = np.cumsum(kept) - 1
    return Mesh(mesh.vertices[kept], number[mesh.faces[kept[mesh.faces[:, 0]]]])
