"""Wavefront OBJ with its material's images.

Vertices keep their order and are never split at texture seams: texture coordinates belong to corners. Colours after a
vertex's position are read. Normals are read for point clouds only, as those of corners follow from the triangles.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.geometry.mesh import Mesh, Texture
from nphm_core.io.images import pack_texture, read_image
from nphm_core.io.scan_file import ScanFile, check_faces, damaged, fan_triangles, find_image, image_beside, unit_normals

_PLAIN_PIXELS = 8
"""Edge of the image that stands for a material of one colour beside others with images."""


@dataclass(frozen=True)
class _Lines:
    vertices: Float[ndarray, "n_vertices 7"]
    n_numbers: Int[ndarray, " n_vertices"]
    uv: Float[ndarray, "n_uv 2"]
    normals: Float[ndarray, "n_normals 3"]
    corners: Int[ndarray, "n_corners 2"]
    sizes: Int[ndarray, " n_polygons"]
    materials: list[tuple[str, str, int]]
    """Keyword, value, and number of polygons before the line."""


@dataclass(frozen=True)
class _Material:
    image: str | None = None
    colour: tuple[float, ...] = (0.8, 0.8, 0.8)


def read_obj(path: Path) -> ScanFile:
    """Read an OBJ mesh or point cloud and the images that its material names, or one of the same stem."""
    path = Path(path)
    lines = _read_lines(path.read_bytes(), path)
    triangles, _ = fan_triangles(np.arange(len(lines.corners)), lines.sizes)
    faces = lines.corners[triangles, 0]
    check_faces(faces, len(lines.vertices), path)
    notes = []
    if (lines.sizes != 3).any():
        notes.append(f"{int((lines.sizes > 3).sum())} polygons were cut into triangles")
    polygon = np.repeat(np.arange(len(lines.sizes)), np.maximum(lines.sizes - 2, 0))
    is_cloud = len(faces) == 0 and len(lines.normals) == len(lines.vertices)
    uv = _corner_uv(lines, triangles, path)
    mesh = Mesh(
        vertices=np.ascontiguousarray(lines.vertices[:, :3]),
        faces=faces,
        normals=unit_normals(lines.normals) if is_cloud and len(lines.normals) else None,
        colours=_colours(lines),
        texture=None if uv is None else _texture(lines, uv, polygon, path, notes),
    )
    return ScanFile(mesh, "OBJ", tuple(notes), len(lines.sizes), uv)


def _read_lines(data: bytes, path: Path) -> _Lines:
    from nphm_core.io.obj_lines import count_lines, read_lines

    if b"\\" in data:  # a line that goes on in the next one
        data = data.replace(b"\\\r\n", b"   ").replace(b"\\\n", b"  ")
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    codes = np.frombuffer(data, np.uint8)
    counts = count_lines(codes)
    if counts[0] == 0:
        raise damaged("the OBJ file has no line `v x y z`, expected vertices", path)
    n_numbers, sizes = np.zeros(counts[0], np.int64), np.zeros(counts[3], np.int64)
    vertices, uv, normals = np.zeros((counts[0], 7)), np.zeros((counts[1], 2)), np.zeros((counts[2], 3))
    corners, marks = np.zeros((counts[6], 2), np.int64), np.zeros((counts[4], 2), np.int64)
    code, position = read_lines(codes, vertices, n_numbers, uv, normals, corners, sizes, marks)
    if code:
        line = data[position : position + 60].split(b"\n")[0].decode("latin-1")
        number = data.count(b"\n", 0, position) + 1
        expected = ("numbers", "indices of vertices that come before", "at least three numbers")[code - 1]
        raise damaged(f"line {number} of the OBJ file is {line.strip()!r}, expected {expected}", path)
    materials = []
    for start, n_before in marks.tolist():
        words = os.fsdecode(data[start : start + 1024].split(b"\n")[0]).strip().split(None, 1)
        materials.append((words[0], words[1] if len(words) > 1 else "", n_before))
    return _Lines(vertices, n_numbers, uv, normals, corners, sizes, materials)


def _colours(lines: _Lines) -> ndarray | None:
    if not (lines.n_numbers >= 6).all():
        return None
    values = lines.vertices[:, 3:6]
    # The common extension has fractions; some scanners write bytes.
    values = values * 255.0 if np.nanmax(values, initial=0.0) <= 1.0 else values
    return np.clip(np.nan_to_num(np.round(values)), 0, 255).astype(np.uint8)


def _corner_uv(lines: _Lines, triangles: ndarray, path: Path) -> Float[ndarray, "n_faces 3 2"] | None:
    index = lines.corners[triangles, 1]
    if not len(lines.uv) or not (index >= 0).any():
        return None
    if index.max() >= len(lines.uv):
        raise damaged(f"a face names texture coordinate {index.max() + 1}, expected 1 to {len(lines.uv)}", path)
    return np.nan_to_num(np.where((index >= 0)[..., None], lines.uv[index], 0.0))


def _texture(lines: _Lines, uv: ndarray, polygon: ndarray, path: Path, notes: list[str]) -> Texture | None:
    name_of, face_material = _face_materials(lines, polygon)
    materials = _read_materials(lines, path, notes)
    images, slot, has_image = _material_images(name_of, materials, path, notes)
    if not has_image:
        beside = image_beside(path)
        if beside is None:
            notes.append("texture coordinates without an image were left out")
            return None
        notes.append(f"no material names an image; {beside.name} lies beside the file and was taken")
        return Texture(uv=uv, image=read_image(beside))
    return pack_texture(uv, slot[face_material], images)


def _material_images(
    names: list[str], materials: dict[str, _Material], path: Path, notes: list[str]
) -> tuple[list[ndarray], ndarray, bool]:
    """Give the images in use, which of them each material has, and whether any comes from a file."""
    images: list[ndarray] = []
    slot = np.zeros(len(names), np.int64)
    found: dict[Path, int] = {}
    for i, name in enumerate(names):
        material = materials.get(name, _Material())
        image = find_image(material.image, [path.parent]) if material.image else None
        if material.image and image is None:
            notes.append(f"the image {Path(material.image.replace(chr(92), '/')).name} of a material is missing")
        if image is not None and image in found:
            slot[i] = found[image]
            continue
        slot[i] = len(images)
        if image is not None:
            found[image] = len(images)
            images.append(read_image(image))
        else:
            colour = np.clip(np.array(material.colour) * 255, 0, 255).astype(np.uint8)
            images.append(np.tile(colour, (_PLAIN_PIXELS, _PLAIN_PIXELS, 1)))
    return images, slot, bool(found)


def _face_materials(lines: _Lines, polygon: ndarray) -> tuple[list[str], ndarray]:
    """Give the materials in use, and for each triangle which of them it has."""
    uses = [(value, n_before) for keyword, value, n_before in lines.materials if keyword == "usemtl"]
    names = ["", *(value for value, _ in uses)]
    number = np.searchsorted([n_before for _, n_before in uses], polygon, side="right")
    used, inverse = np.unique(np.array(names)[number], return_inverse=True)
    return used.tolist(), inverse.ravel()


def _read_materials(lines: _Lines, path: Path, notes: list[str]) -> dict[str, _Material]:
    materials: dict[str, _Material] = {}
    for keyword, value, _ in lines.materials:
        if keyword != "mtllib":
            continue
        library = find_image(value, [path.parent]) or find_image(path.with_suffix(".mtl").name, [path.parent])
        if library is None:
            notes.append(f"the material file {Path(value.replace(chr(92), '/')).name} is missing")
            continue
        materials |= _parse_materials(os.fsdecode(library.read_bytes()))
    return materials


def _parse_materials(text: str) -> dict[str, _Material]:
    materials: dict[str, _Material] = {}
    name = ""
    for line in text.splitlines():
        words = line.strip().split(None, 1)
        if len(words) < 2:
            continue
        known = materials.get(name, _Material())
        keyword = words[0].lower()
        if keyword == "newmtl":
            name = words[1].strip()
            materials[name] = _Material()
        elif keyword == "map_kd" or (keyword == "map_ka" and known.image is None):
            materials[name] = _Material(_image_name(words[1]), known.colour)
        elif keyword == "kd":
            materials[name] = _Material(known.image, _kd(words[1]) or known.colour)
    return materials


def _kd(text: str) -> tuple[float, ...] | None:
    words = text.split()[:3]
    try:
        return tuple(float(word) for word in words) if len(words) == 3 else None
    except ValueError:
        return None  # `Kd spectral file` names a spectrum, which has no simple colour


_OPTION_VALUES = {"-blendu": 1, "-blendv": 1, "-boost": 1, "-mm": 2, "-texres": 1, "-clamp": 1, "-bm": 1, "-imfchan": 1}


def _image_name(text: str) -> str:
    """Drop options such as `-s 1 1 1` in front of the name, which may hold blanks."""
    words = text.split(" ")
    while len(words) > 1 and words[0].startswith("-"):
        option = words.pop(0).lower()
        limit = _OPTION_VALUES.get(option, 3)  # -o, -s and -t take one to three numbers
        while limit and len(words) > 1 and (option in _OPTION_VALUES or _is_number(words[0])):
            words.pop(0)
            limit -= 1
    return " ".join(words).strip()


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
