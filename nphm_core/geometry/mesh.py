"""Triangle meshes as plain arrays, and the quantities that follow from positions and faces alone.

Vertices are float64 in the unit of their space, faces int64, counter-clockwise seen from outside. A mesh without
faces is a point cloud. Nothing here merges, drops or reorders vertices unless its name says so.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray


@dataclass(frozen=True)
class Texture:
    """A colour image and where each triangle's corners lie in it.

    Coordinates belong to corners and not to vertices, so that a seam never splits a vertex.
    """

    uv: Float[ndarray, "n_faces 3 2"]
    """Texture coordinates, origin at the bottom left, may leave [0, 1] (the image repeats)."""
    image: UInt8[ndarray, "height width 3"]
    """sRGB, row 0 at the top."""


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh, or a point cloud where `faces` is empty."""

    vertices: Float[ndarray, "n_vertices 3"]
    faces: Int[ndarray, "n_faces 3"]
    normals: Float[ndarray, "n_vertices 3"] | None = None
    """Unit vertex normals as delivered; None if the file has none."""
    colours: UInt8[ndarray, "n_vertices 3"] | None = None
    """sRGB per vertex; None if the file has none."""
    texture: Texture | None = None

    @property
    def n_vertices(self) -> int:
        """Number of vertices."""
        return len(self.vertices)

    @property
    def n_faces(self) -> int:
        """Number of triangles; 0 for a point cloud."""
        return len(self.faces)

    def with_vertices(self, vertices: Float[ndarray, "n_vertices 3"]) -> "Mesh":
        """Give the same mesh with other positions; delivered normals are dropped."""
        return replace(self, vertices=vertices, normals=None)


def face_normals(
    vertices: Float[ndarray, "n_vertices 3"], faces: Int[ndarray, "n_faces 3"]
) -> tuple[Float[ndarray, "n_faces 3"], Float[ndarray, " n_faces"]]:
    """Give unit normals and areas of triangles; a degenerate triangle has normal and area zero."""
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    cross = np.cross(b - a, c - a)
    length = np.linalg.norm(cross, axis=1)
    return cross / np.maximum(length, 1e-300)[:, None], 0.5 * length


def vertex_normals(
    vertices: Float[ndarray, "n_vertices 3"], faces: Int[ndarray, "n_faces 3"]
) -> Float[ndarray, "n_vertices 3"]:
    """Give area-weighted unit vertex normals; zero where no triangle meets."""
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    cross = np.cross(b - a, c - a)
    index = faces.ravel()
    out = np.empty_like(vertices)
    for axis in range(3):
        out[:, axis] = np.bincount(index, np.repeat(cross[:, axis], 3), minlength=len(vertices))
    return out / np.maximum(np.linalg.norm(out, axis=1), 1e-300)[:, None]


def unique_edges(faces: Int[ndarray, "n_faces 3"]) -> tuple[Int[ndarray, "n_edges 2"], Int[ndarray, " n_edges"]]:
    """Give each undirected edge once (smaller index first) and the number of triangles at it."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    # One integer a pair: np.unique over rows is ten times slower.
    key, count = np.unique(edges[:, 0] * (int(faces.max(initial=0)) + 1) + edges[:, 1], return_counts=True)
    return np.stack(np.divmod(key, int(faces.max(initial=0)) + 1), axis=1), count


def boundary_vertices(n_vertices: int, faces: Int[ndarray, "n_faces 3"]) -> ndarray:
    """Mark vertices at an edge that belongs to one triangle only; bool, one a vertex."""
    edges, count = unique_edges(faces)
    out = np.zeros(n_vertices, bool)
    out[edges[count == 1].ravel()] = True
    return out
