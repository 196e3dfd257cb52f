"""PLY files: any mesh or point cloud that a scanner writes, read with numpy, and our own binary writing.

The vertex order of the file is kept. Colours are sRGB. Texture coordinates count from the bottom left, per corner
(MeshLab's `texcoord`) or per vertex (`s t`, `u v`, `texture_u texture_v`).
"""

from pathlib import Path

import numpy as np
from numpy import ndarray

from nphm_core.geometry.mesh import Mesh, Texture
from nphm_core.io.files import atomic_write
from nphm_core.io.images import pack_texture, read_image, write_image
from nphm_core.io.ply_body import PlyHeader, PlyLists, read_ply_columns, read_ply_header
from nphm_core.io.scan_file import (
    ScanFile,
    check_faces,
    damaged,
    fan_triangles,
    find_image,
    image_beside,
    scan_file_error,
    unit_normals,
)


def read_ply(path: Path) -> ScanFile:
    """Read a PLY mesh or point cloud; elements that are no vertices, faces or strips are skipped."""
    data = Path(path).read_bytes()
    header = read_ply_header(data, path)
    columns = read_ply_columns(data, header, path)
    if "vertex" not in columns:
        names = ", ".join(element.name for element in header.elements) or "nothing"
        raise scan_file_error(
            f"the PLY file holds {names}, expected an element vertex with x, y and z",
            "Export the fused surface or point cloud; single depth frames are not scans",
            path,
        )
    return _build(columns, header, path)


def _vertex_columns(vertex: dict, names: tuple[str, ...]) -> ndarray | None:
    if not all(name in vertex and isinstance(vertex[name], ndarray) for name in names):
        return None
    return np.stack([vertex[name] for name in names], axis=1)


def _colours(vertex: dict) -> ndarray | None:
    for names in (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")):
        values = _vertex_columns(vertex, names)
        if values is None:
            continue
        if values.dtype.kind == "f" and values.max(initial=0.0) <= 1.0 and not _whole(values):
            values = values * 255.0
        return np.clip(np.nan_to_num(np.round(values)), 0, 255).astype(np.uint8)
    return None


def _whole(values: ndarray) -> bool:
    # An ascii file's colours arrive as floats: 0 and 1 alone are ambiguous, and then they are fractions.
    return bool((values == np.round(values)).all() and values.max(initial=0.0) > 1.0)


def _build(columns: dict[str, dict], header: PlyHeader, path: Path) -> ScanFile:
    vertex = columns["vertex"]
    vertices = _vertex_columns(vertex, ("x", "y", "z"))
    if vertices is None:
        raise damaged("the vertices of the PLY file lack x, y or z", path)
    vertices = vertices.astype(np.float64)
    face = columns.get("face") or columns.get("faces") or {}
    lists = face.get("vertex_indices", face.get("vertex_index"))
    notes: list[str] = []
    n_file_faces, where = 0, np.empty((0, 3), np.int64)
    faces = where
    if isinstance(lists, PlyLists):
        n_file_faces = len(lists.sizes)
        # Huge unsigned indices of a damaged file turn negative here and are refused below.
        faces, where = fan_triangles(_indices(lists.values, path), lists.sizes)
        if (lists.sizes != 3).any():
            notes.append(f"{int((lists.sizes > 3).sum())} polygons were cut into triangles")
    elif "tristrips" in columns:
        faces = _strip_triangles(next(iter(columns["tristrips"].values()), None), path)
        n_file_faces = len(faces)
        notes.append("triangle strips were taken apart")
    check_faces(faces, len(vertices), path)
    normals = _vertex_columns(vertex, ("nx", "ny", "nz"))
    uv = _corner_uv(vertex, face, faces, where, path) if len(faces) else None
    mesh = Mesh(
        vertices=vertices,
        faces=faces,
        normals=unit_normals(None if normals is None else normals.astype(np.float64)),
        colours=_colours(vertex),
        texture=None if uv is None else _texture(uv, face, header, path, notes),
    )
    skipped = [e.name for e in header.elements if e.name not in ("vertex", "face", "faces", "tristrips") and e.count]
    if skipped:
        notes.append(f"elements skipped: {', '.join(skipped)}")
    return ScanFile(mesh, f"PLY ({header.form.split('_')[0]})", tuple(notes), n_file_faces, uv)


def _indices(values: ndarray, path: Path) -> ndarray:
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.round(values)).all()):
        raise damaged("a face of the PLY file names a vertex that is no whole number", path)
    return np.clip(values, -(2**62), 2**62).astype(np.int64) if values.dtype.kind == "f" else values.astype(np.int64)


def _strip_triangles(lists: PlyLists | ndarray | None, path: Path) -> ndarray:
    if not isinstance(lists, PlyLists):
        raise damaged("the PLY file's tristrips hold no list", path)
    strip = _indices(lists.values, path)
    ends = np.zeros(len(strip), bool)
    ends[np.cumsum(lists.sizes[lists.sizes > 0]) - 1] = True
    strip = np.insert(strip, np.nonzero(ends)[0] + 1, -1)
    if len(strip) < 3:
        return np.empty((0, 3), np.int64)
    is_cut = strip == -1
    # Every second triangle of a strip is turned; the count starts anew after each -1.
    start = np.maximum.accumulate(np.where(np.concatenate([[True], is_cut[:-1]]), np.arange(len(strip)), 0))
    odd = ((np.arange(len(strip)) - start) % 2 == 1)[:-2]
    triangles = np.stack([strip[:-2], strip[1:-1], strip[2:]], axis=1)
    triangles[odd] = triangles[odd][:, [1, 0, 2]]
    return triangles[~(is_cut[:-2] | is_cut[1:-1] | is_cut[2:])]


def _texture(uv: ndarray, face: dict, header: PlyHeader, path: Path, notes: list[str]) -> Texture | None:
    found = [find_image(name, [path.parent]) for name in header.images]
    if not header.images:
        found = [image_beside(path)]
    paths = [image for image in found if image is not None]
    if not paths or len(paths) < len(header.images):
        notes.append("texture coordinates without their image were left out")
        return None
    number = face.get("texnumber")
    face_image = np.zeros(len(uv), np.int64)
    if isinstance(number, ndarray) and len(paths) > 1:
        sizes = _corner_lists(face).sizes
        face_image = np.clip(np.repeat(number, np.maximum(sizes - 2, 0)), 0, len(paths) - 1).astype(np.int64)
    return pack_texture(uv, face_image, [read_image(image) for image in paths])


def _corner_lists(face: dict) -> PlyLists:
    lists: PlyLists = face["vertex_indices"] if "vertex_indices" in face else face["vertex_index"]
    return lists


def _corner_uv(vertex: dict, face: dict, faces: ndarray, where: ndarray, path: Path) -> ndarray | None:
    lists = face.get("texcoord")
    if isinstance(lists, PlyLists) and lists.sizes.any() and len(where):
        sizes = _corner_lists(face).sizes
        if not ((lists.sizes == 2 * sizes) | (lists.sizes == 0)).all():
            raise damaged("the texture coordinates of the PLY file do not match its faces' corners", path)
        corners = np.zeros((int(sizes.sum()), 2))
        corners[np.repeat(lists.sizes > 0, sizes)] = lists.values.reshape(-1, 2)
        return np.nan_to_num(corners[where])
    for names in (("s", "t"), ("u", "v"), ("texture_u", "texture_v")):
        uv = _vertex_columns(vertex, names)
        if uv is not None:
            return np.nan_to_num(uv.astype(np.float64)[faces])
    return None


def write_ply(path: Path, mesh: Mesh, *, image_name: str = "texture.png", exact: bool = False) -> None:
    """Write a binary PLY, and its texture beside it under `image_name`.

    Positions are stored as float32 unless rounding would move one by more than a millionth of the mesh's extent, or
    with `exact` at all.
    """
    rows = np.empty(mesh.n_vertices, _vertex_row(mesh, 0.0 if exact else 1e-6))
    for i, axis in enumerate("xyz"):
        rows[axis] = mesh.vertices[:, i]
        if mesh.normals is not None:
            rows["n" + axis] = mesh.normals[:, i]
    if mesh.colours is not None:
        for i, name in enumerate(("red", "green", "blue")):
            rows[name] = mesh.colours[:, i]
    face_fields: list[tuple] = [("n", "u1"), ("vertex_indices", "<i4", (3,))]
    if mesh.texture is not None:
        face_fields += [("m", "u1"), ("texcoord", "<f4", (6,))]
    triangles = np.empty(mesh.n_faces, face_fields)
    triangles["n"], triangles["vertex_indices"] = 3, mesh.faces
    if mesh.texture is not None:
        triangles["m"], triangles["texcoord"] = 6, mesh.texture.uv.reshape(-1, 6)
        write_image(Path(path).with_name(image_name), mesh.texture.image)
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        stream.write(_header_text(mesh, rows.dtype, image_name).encode())
        stream.write(rows.tobytes())
        stream.write(triangles.tobytes())


def _vertex_row(mesh: Mesh, max_rounding: float) -> np.dtype:
    kind = "<f4"
    if mesh.n_vertices:
        with np.errstate(over="ignore"):
            rounding = np.abs(mesh.vertices.astype(np.float32) - mesh.vertices).max()
        # NaN in the comparison keeps the double.
        kind = "<f4" if rounding <= max_rounding * np.ptp(mesh.vertices, axis=0).max() else "<f8"
    fields = [(axis, kind) for axis in "xyz"]
    if mesh.normals is not None:
        fields += [("n" + axis, "<f4") for axis in "xyz"]
    if mesh.colours is not None:
        fields += [(name, "u1") for name in ("red", "green", "blue")]
    return np.dtype(fields)


def _header_text(mesh: Mesh, row: np.dtype, image_name: str) -> str:
    names = {"f4": "float", "f8": "double", "u1": "uchar"}
    lines = ["ply", "format binary_little_endian 1.0"]
    if mesh.texture is not None:
        lines.append(f"comment TextureFile {image_name}")
    lines.append(f"element vertex {mesh.n_vertices}")
    lines += [f"property {names[row[name].str[1:]]} {name}" for name in row.names or ()]
    lines += [f"element face {mesh.n_faces}", "property list uchar int vertex_indices"]
    if mesh.texture is not None:
        lines.append("property list uchar float texcoord")
    return "\n".join([*lines, "end_header", ""])
