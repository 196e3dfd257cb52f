"""glTF and GLB by trimesh: node transforms applied, coordinates in the file's unit (metres by the standard).

glTF splits vertices where texture coordinates or normals differ. They are welded where positions are exactly equal,
in the order of their first appearance, as the format has no other way to say that they are one.
"""

import json
import struct
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nphm_core.errors import ScanFileError
from nphm_core.geometry.mesh import Mesh, Texture
from nphm_core.io.images import pack_texture
from nphm_core.io.scan_file import ScanFile, check_faces, damaged, scan_file_error, weld

_UNREADABLE = {
    "KHR_draco_mesh_compression": "compressed by Draco",
    "EXT_meshopt_compression": "compressed by meshopt",
    "KHR_meshopt_compression": "compressed by meshopt",
    "KHR_texture_basisu": "textured in Basis Universal",
}


def read_gltf(path: Path) -> ScanFile:
    """Read a glTF scene as one mesh; compressed geometry and animated poses are refused or left out."""
    path = Path(path)
    document = _read_document(path)
    _refuse_unreadable(document, path)
    _refuse_outside(document, path)
    parts = [part for part in _load_parts(path) if len(part.vertices)]
    if not parts:
        raise damaged("the glTF file holds no mesh in its scene", path)
    offsets = np.cumsum([0] + [len(part.vertices) for part in parts])
    if any(np.asarray(part.vertices).shape[1:] != (3,) for part in parts):
        raise damaged("the positions in the glTF file are no triples of numbers", path)
    vertices = np.concatenate([np.asarray(part.vertices, np.float64) for part in parts])
    faces = np.concatenate([_faces(part) + start for part, start in zip(parts, offsets, strict=False)])
    check_faces(faces, len(vertices), path)
    keep, index = weld(vertices)
    notes = [f"glTF splits vertices at seams: {len(vertices)} were welded to {len(keep)} by exact position"]
    if any(isinstance(node, dict) and ("skin" in node or "weights" in node) for node in _listed(document, "nodes")):
        notes.append("skins and morph targets were left out: the mesh is in its rest pose")
    colours, uv = _colours(parts), _corner_uv(parts)
    mesh = Mesh(
        vertices=vertices[keep],
        faces=index[faces],
        colours=None if colours is None else colours[keep],
        texture=_texture(parts, uv, path, notes),
    )
    return ScanFile(mesh, "GLB" if path.suffix.lower() == ".glb" else "glTF", tuple(notes), len(faces), uv)


def _read_document(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    try:
        if data[:4] == b"glTF":
            length, kind = struct.unpack_from("<I4s", data, 12)
            if struct.unpack_from("<I", data, 8)[0] > len(data) or kind != b"JSON":
                raise damaged(f"the GLB file ends after {len(data)} bytes, expected more by its header", path)
            data = data[20 : 20 + length]
        document = json.loads(data)
    except (struct.error, ValueError, RecursionError):
        raise damaged("the glTF file has no JSON part that can be read", path) from None
    if not isinstance(document, dict):
        raise damaged("the glTF file's JSON part is no object", path)
    return document


def _refuse_unreadable(document: dict[str, Any], path: Path) -> None:
    used = document.get("extensionsRequired", [])
    for name in used if isinstance(used, list) else []:
        if name in _UNREADABLE:
            raise scan_file_error(
                f"the glTF file is {_UNREADABLE[name]} ({name}), which is not read here",
                "Export it without compression, for example with Blender or gltf-transform",
                path,
            )


def _refuse_outside(document: dict[str, Any], path: Path) -> None:
    """Refuse files that the scene takes from elsewhere: a scan must not make its reader open /dev/zero."""
    entries = [entry for key in ("buffers", "images") for entry in _listed(document, key)]
    for uri in (entry.get("uri") for entry in entries if isinstance(entry, dict)):
        if not isinstance(uri, str) or uri.startswith("data:"):
            continue
        name = Path(unquote(uri).replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or "://" in uri:
            raise scan_file_error(
                "the glTF file takes data from outside its folder, expected them in it or beside it",
                "Export it as one GLB file",
                path,
            )


def _listed(document: dict[str, Any], key: str) -> list[Any]:
    entries = document.get(key, [])
    return entries if isinstance(entries, list) else []


def _load_parts(path: Path) -> list[Any]:
    import trimesh

    try:
        scene = trimesh.load_scene(path, process=False, merge_primitives=False)
        parts = []
        for node in scene.graph.nodes_geometry:
            matrix, name = scene.graph[node]
            part = scene.geometry[name].copy()
            part.apply_transform(matrix)
            parts.append(part)
    except ScanFileError:
        raise
    # Not a bare except: trimesh raises whatever its parsers meet in a damaged file.
    except Exception as error:
        raise damaged(f"the glTF file cannot be read ({type(error).__name__}: {str(error)[:60]})", path) from None
    return parts


def _faces(part: Any) -> ndarray:
    return np.asarray(getattr(part, "faces", np.empty((0, 3))), np.int64).reshape(-1, 3)


def _colours(parts: list[Any]) -> ndarray | None:
    out = []
    for part in parts:
        visual = getattr(part, "visual", None)
        values = part.colors if visual is None else (visual.vertex_colors if visual.kind == "vertex" else None)
        if values is None or len(values) != len(part.vertices):
            return None
        out.append(np.asarray(values)[:, :3].astype(np.uint8))
    return np.concatenate(out)


def _corner_uv(parts: list[Any]) -> Float[ndarray, "n_faces 3 2"] | None:
    all_uv, found = [], False
    for part in parts:
        faces, uv = _faces(part), getattr(getattr(part, "visual", None), "uv", None)
        found |= uv is not None
        # trimesh has already turned glTF's coordinates so that they count from the bottom.
        all_uv.append(np.zeros((len(faces), 3, 2)) if uv is None else np.asarray(uv, np.float64)[faces])
    return np.nan_to_num(np.concatenate(all_uv)) if found else None


def _image(part: Any) -> tuple[ndarray, bool]:
    """Give the image of a part's material, or a small one of its plain colour, and whether it is an image."""
    material = getattr(getattr(part, "visual", None), "material", None)
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if image is not None:
        return np.asarray(image.convert("RGB")), True
    colour = np.asarray(getattr(material, "main_color", (204, 204, 204, 255)), np.uint8)[:3]
    return np.tile(colour, (8, 8, 1)), False


def _texture(parts: list[Any], uv: ndarray | None, path: Path, notes: list[str]) -> Texture | None:
    if uv is None:
        return None
    try:
        images = [_image(part) for part in parts]
    except (OSError, ValueError, SyntaxError) as error:
        raise damaged(f"an image in the glTF file cannot be read ({str(error)[:60]})", path) from None
    if not any(is_image for _, is_image in images):
        notes.append("texture coordinates without an image were left out")
        return None
    slots = np.repeat(np.arange(len(parts)), [len(_faces(part)) for part in parts])
    return pack_texture(uv, slots, [image for image, _ in images])
