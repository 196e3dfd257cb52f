"""Meshes packed for the gallery's 3D view: a small script that a page loads from a disk, without a server.

Positions are in the upright head frame in mm, quantised to 16 bits in the mesh's box, errors to 8 bits. Columns are
stored as differences, low bytes before high ones, which halves what zlib makes of them; `report/web/view.js` reads it.
The registered mesh has the template's topology, so its triangles lie in one script for all scans.
"""

import base64
import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray

from nphm_core.geometry.mesh import Mesh, face_normals
from nphm_core.registration.drawable import texture_at
from nphm_core.spaces import Similarity

_MAX_VERTICES = 65_535
"""What an index of 16 bits can name."""
_CELL_GROWTH = 1.12
_FIRST_CELL = 0.9
_ERROR_STEPS = 254
_UNMEASURED = 255
_LEVEL = 9


@dataclass(frozen=True)
class ViewMesh:
    """A mesh, or a cloud where it has no faces, small enough to look at in a browser."""

    vertices: Float[ndarray, "n_vertices 3"]
    faces: Int[ndarray, "n_faces 3"]
    colours: UInt8[ndarray, "n_vertices 3"] | None


def view_mesh(mesh: Mesh, n_vertices: int) -> ViewMesh:
    """Give a scan with at most so many vertices: those in one cell of a grid become their mean."""
    colours = _vertex_colours(mesh)
    if mesh.n_vertices <= n_vertices:
        return ViewMesh(mesh.vertices, mesh.faces, colours)
    cell = _FIRST_CELL * np.sqrt(_area(mesh) / n_vertices)
    while True:
        key = np.floor((mesh.vertices - mesh.vertices.min(0)) / cell).astype(np.int64)
        unique, index = np.unique(key @ [1, 1 << 20, 1 << 40], return_inverse=True)
        if len(unique) <= n_vertices:
            break
        cell *= _CELL_GROWTH
    faces = index[mesh.faces] if mesh.n_faces else mesh.faces
    is_whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    means = None if colours is None else np.round(_means(index, colours.astype(float), len(unique))).astype(np.uint8)
    return ViewMesh(_means(index, mesh.vertices, len(unique)), faces[is_whole], means)


def head_script(
    scan_id: str,
    scan: Mesh,
    registered: Float[ndarray, "n_vertices 3"],
    distance_mm: Float[ndarray, " n_vertices"],
    is_measured: Bool[ndarray, " n_vertices"],
    T_head_metric: Similarity,
    *,
    n_scan_vertices: int,
    colour_max_mm: float,
) -> str:
    """Give the script of one scan: the scan itself, and the registered mesh with its distances to the scan.

    `scan` and `registered` are in mm, in metric space. `registered` may be the first vertices of a finer mesh.
    """
    small = view_mesh(scan, min(n_scan_vertices, _MAX_VERTICES)) if n_scan_vertices else None
    parts: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    points = T_head_metric.apply(registered)
    steps = np.clip(np.where(is_measured, distance_mm, 0) / colour_max_mm, 0, 1) * _ERROR_STEPS
    error = np.where(is_measured, np.round(steps), _UNMEASURED).astype(np.uint8)
    parts.append({"name": "registration", "n": len(points)} | _quantised(points, blobs))
    blobs.append(_differences(error[:, None]))
    if small is not None:
        facts = {"name": "scan", "n": len(small.vertices), "n_faces": len(small.faces)}
        parts.append(facts | {"coloured": small.colours is not None} | _quantised(_placed(small, T_head_metric), blobs))
        blobs.append(_differences(small.faces.astype("<u2")))
        if small.colours is not None:
            blobs.append(_differences(small.colours))
    return _script("head", {"scan": scan_id, "largest_mm": colour_max_mm, "parts": parts}, blobs)


def topology_script(faces: Int[ndarray, "n_faces 3"]) -> str:
    """Give the script with the triangles that all registered meshes of a gallery share."""
    kind = "<u2" if faces.max(initial=0) <= _MAX_VERTICES else "<u4"
    return _script("topology", {"n_faces": len(faces), "bytes": int(kind[2])}, [_differences(faces.astype(kind))])


def _placed(mesh: ViewMesh, T_head_metric: Similarity) -> ndarray:
    points: ndarray = T_head_metric.apply(mesh.vertices)
    return points


def _area(mesh: Mesh) -> float:
    if mesh.n_faces:
        return float(face_normals(mesh.vertices, mesh.faces)[1].sum())
    # A head's surface is about that of its box.
    x, y, z = np.ptp(mesh.vertices, axis=0)
    return float(2 * (x * y + y * z + z * x))


def _means(index: ndarray, values: Float[ndarray, "n k"], n: int) -> Float[ndarray, "n_means k"]:
    count = np.maximum(np.bincount(index, minlength=n), 1)
    return np.stack([np.bincount(index, column, minlength=n) / count for column in values.T], axis=1)


def _vertex_colours(mesh: Mesh) -> UInt8[ndarray, "n 3"] | None:
    """Give a colour for each vertex, of a textured scan by one of its corners."""
    if mesh.texture is None or not mesh.n_faces:
        return mesh.colours
    vertex, first = np.unique(mesh.faces.ravel(), return_index=True)
    face, corner = np.divmod(first, 3)
    colours = np.full((mesh.n_vertices, 3), 190, np.uint8)
    colours[vertex] = np.round(255 * texture_at(mesh.texture, face, np.eye(3)[corner]))
    return colours


def _quantised(points: Float[ndarray, "n 3"], blobs: list[bytes]) -> dict[str, Any]:
    low = points.min(0)
    size = np.maximum(np.ptp(points, axis=0), 1e-6)
    blobs.append(_differences(np.round((points - low) / size * 65_535).astype("<u2")))
    return {"low": np.round(low, 3).tolist(), "size": np.round(size, 3).tolist()}


def _differences(values: ndarray) -> bytes:
    """Give columns as differences that wrap around, each byte of a number in a run of its own."""
    columns = np.ascontiguousarray(values.T)
    step = columns.copy()
    step[:, 1:] = columns[:, 1:] - columns[:, :-1]
    planes = step.view(np.uint8).reshape(len(step), -1, values.dtype.itemsize)
    return np.ascontiguousarray(planes.transpose(0, 2, 1)).tobytes()


def _script(function: str, facts: dict[str, Any], blobs: list[bytes]) -> str:
    data = base64.b64encode(zlib.compress(b"".join(blobs), _LEVEL)).decode()
    text = json.dumps(facts | {"data": data}, separators=(",", ":"), sort_keys=True)
    return f"nphm.{function}({text});\n"
