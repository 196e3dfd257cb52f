"""GLB files with morph targets: one mesh, its vertices in their order, names for the targets. Metres, as glTF has it.

Written by hand, as no writer at hand keeps vertex order and writes names of targets. glTF 2.0, sections 3.7.2 (meshes)
and 4.4 (binary container).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nphm_core.geometry.mesh import Mesh, vertex_normals
from nphm_core.io.files import atomic_write

_FLOAT, _UINT8, _UINT32 = 5126, 5121, 5125
_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963
_SKIN = {
    "name": "skin",
    "doubleSided": True,
    "pbrMetallicRoughness": {"baseColorFactor": [0.72, 0.66, 0.62, 1.0], "metallicFactor": 0.0, "roughnessFactor": 0.7},
}


def write_glb_metres(
    path: Path,
    mesh: Mesh,
    morph_offsets: Mapping[str, Float[ndarray, "n_vertices 3"]] | None = None,
    *,
    name: str = "head",
    extras: Mapping[str, Any] | None = None,
) -> None:
    """Write a mesh and its morph targets, all in metres; vertex order is kept, positions are stored as float32.

    An offset is what a target adds to the mesh at weight one. Names go into `extras.targetNames`, where Blender and
    three.js look for them. Normals and their offsets are made from the triangles. `extras` are kept in the asset.
    """
    offsets = dict(morph_offsets or {})
    if mesh.n_faces == 0:
        raise ValueError("a GLB of this project is a surface; the mesh has no triangles")
    for target, offset in offsets.items():
        if offset.shape != mesh.vertices.shape:
            raise ValueError(f"the target {target} has shape {offset.shape}; expected {mesh.vertices.shape}")
    buffer = _Buffer()
    normals = vertex_normals(mesh.vertices, mesh.faces)
    attributes = {"POSITION": buffer.floats(mesh.vertices, bounds=True), "NORMAL": buffer.floats(normals)}
    if mesh.colours is not None:
        attributes["COLOR_0"] = buffer.colours(mesh.colours)
    primitive: dict[str, Any] = {"attributes": attributes, "indices": buffer.indices(mesh.faces), "material": 0}
    glb_mesh: dict[str, Any] = {"name": name, "primitives": [primitive]}
    if offsets:
        primitive["targets"] = [_target(buffer, mesh, normals, offset) for offset in offsets.values()]
        glb_mesh |= {"weights": [0.0] * len(offsets), "extras": {"targetNames": list(offsets)}}
    document = {
        "asset": {"version": "2.0", "generator": "NPHM reference system", "extras": dict(extras or {})},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [glb_mesh],
        "materials": [_SKIN],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    with atomic_write(path) as temporary:
        temporary.write_bytes(_container(document, bytes(buffer.data)))


def _target(
    buffer: "_Buffer", mesh: Mesh, normals: Float[ndarray, "n 3"], offset: Float[ndarray, "n 3"]
) -> dict[str, int]:
    moved = vertex_normals(mesh.vertices + offset, mesh.faces)
    return {"POSITION": buffer.floats(offset, bounds=True), "NORMAL": buffer.floats(moved - normals)}


class _Buffer:
    """The binary part, and the views and accessors that say what lies where."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def floats(self, values: Float[ndarray, "n 3"], *, bounds: bool = False) -> int:
        rows = values.astype("<f4")
        # Positions have to tell their bounds, and those of what is stored, not of what was rounded.
        more = {"min": rows.min(axis=0).tolist(), "max": rows.max(axis=0).tolist()} if bounds else {}
        return self._add(rows, _FLOAT, "VEC3", _ARRAY_BUFFER, more)

    def colours(self, values: ndarray) -> int:
        # sRGB bytes to the linear values that glTF wants; four bytes a vertex keep rows aligned.
        linear = np.round(255 * (values / 255.0) ** 2.2)
        rows = np.concatenate([linear, np.full((len(values), 1), 255)], axis=1).astype("u1")
        return self._add(rows, _UINT8, "VEC4", _ARRAY_BUFFER, {"normalized": True})

    def indices(self, faces: ndarray) -> int:
        return self._add(faces.reshape(-1).astype("<u4"), _UINT32, "SCALAR", _ELEMENT_BUFFER, {})

    def _add(self, rows: ndarray, component: int, kind: str, target: int, more: dict[str, Any]) -> int:
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": rows.nbytes, "target": target}
        accessor = {"bufferView": len(self.views), "componentType": component, "count": len(rows), "type": kind}
        self.views.append(view)
        self.accessors.append(accessor | more)
        self.data += rows.tobytes()
        return len(self.accessors) - 1


def _container(document: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(document, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    chunks = len(text).to_bytes(4, "little") + b"JSON" + text + len(data).to_bytes(4, "little") + b"BIN\0" + data
    return b"glTF" + (2).to_bytes(4, "little") + (12 + len(chunks)).to_bytes(4, "little") + chunks
