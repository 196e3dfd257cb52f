"""STL, OFF, and points as text or NumPy array.

STL repeats each corner for every triangle: its vertices are welded where positions are exactly equal, in the order of
their first appearance.
"""

import io
import warnings
from pathlib import Path

import numpy as np
from numpy import ndarray

from nphm_core.errors import ScanFileError
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.array_files import ArrayFileError, read_npy
from nphm_core.io.scan_file import ScanFile, check_faces, damaged, fan_triangles, unit_normals, weld


def read_stl(path: Path) -> ScanFile:
    """Read a binary or ascii STL by trimesh and weld it."""
    from trimesh.exchange.stl import HeaderError, load_stl

    data = Path(path).read_bytes()
    try:
        with np.errstate(all="ignore"):  # numbers of a damaged file
            corners = np.asarray(load_stl(io.BytesIO(data))["vertices"], np.float64)
    except (HeaderError, ValueError, IndexError, KeyError, UnicodeDecodeError, OverflowError) as error:
        raise damaged(f"the STL file cannot be read ({str(error)[:80]}), expected binary or ascii STL", path) from None
    if len(corners) % 3:
        raise damaged(f"the STL file holds {len(corners)} corners, expected a multiple of 3", path)
    keep, index = weld(corners)
    note = f"STL has no shared vertices: {len(corners)} corners were welded to {len(keep)} by exact position"
    mesh = Mesh(corners[keep], index.reshape(-1, 3))
    return ScanFile(mesh, "STL", (note,), mesh.n_faces)


def read_off(path: Path) -> ScanFile:
    """Read an OFF mesh; colours are ignored."""
    lines = [line.split(b"#")[0] for line in Path(path).read_bytes().splitlines()]
    words = b" ".join(lines).split()
    if not words or not words[0].upper().endswith(b"OFF"):
        raise damaged("the file does not start with `OFF`", path)
    if words[0].upper() != b"OFF":
        raise damaged(f"the kind {words[0].decode('latin-1')[:10]} of OFF is not read, expected plain OFF", path)
    rows = [line.split() for line in lines if line.strip()]
    rows = [rows[0][1:], *rows[1:]] if len(rows[0]) > 1 else rows[1:]
    try:
        n_vertices, n_faces = int(rows[0][0]), int(rows[0][1])
        if n_vertices < 0 or n_faces < 0 or len(rows) < 1 + n_vertices + n_faces:
            raise ValueError("fewer lines than its header says")
        vertices = np.array([row[:3] for row in rows[1 : 1 + n_vertices]], dtype=float).reshape(-1, 3)
        faces = [[int(word) for word in row[1 : 1 + int(row[0])]] for row in rows[1 + n_vertices :][:n_faces]]
        if any(len(face) != int(row[0]) for face, row in zip(faces, rows[1 + n_vertices :], strict=False)):
            raise ValueError("a face lacks corners")
        corners = np.array([index for face in faces for index in face], np.int64)
    except (ValueError, IndexError, OverflowError) as error:
        raise damaged(f"the OFF file cannot be read ({str(error)[:80]})", path) from None
    sizes = np.array([len(face) for face in faces], np.int64)
    triangles, _ = fan_triangles(corners, sizes)
    check_faces(triangles, n_vertices, path)
    return ScanFile(Mesh(vertices, triangles), "OFF", (), n_faces)


def read_points(path: Path) -> ScanFile:
    """Read points as text: x y z, then normal (3), colour (3), or both in either order; a header line is skipped."""
    text = Path(path).read_bytes().replace(b",", b" ").replace(b";", b" ")
    lines = [line for line in text.splitlines() if line.strip() and line.strip()[:1] not in (b"#", b"/")]
    first = 0
    while first < min(len(lines), 3) and not _is_point(lines[first]):
        first += 1
    lines = lines[first:]
    if not lines:
        raise damaged("the text file holds no line of at least three numbers, expected points", path)
    n_columns = len(lines[0].split())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # numpy's sign of text that is no number
            values = np.fromstring(b" ".join(lines), float, sep=" ")
        rows = values.reshape(len(lines), n_columns)
    except (DeprecationWarning, ValueError):
        raise damaged(f"the lines of the text file differ, expected {n_columns} numbers in each", path) from None
    return _cloud(rows, "points as text", path)


def _is_point(line: bytes) -> bool:
    try:
        return len([float(word) for word in line.split()]) >= 3
    except ValueError:
        return False


def read_points_npy(path: Path) -> ScanFile:
    """Read points from a NumPy array of 3, 6 or 9 columns."""
    try:
        rows = read_npy(path)
    except ArrayFileError as error:
        raise damaged(f"the NPY file cannot be read ({error})", path) from None
    if rows.dtype.kind not in "fiu" or rows.ndim != 2 or rows.shape[1] < 3:
        found = f"{rows.dtype} of shape {rows.shape}"
        raise damaged(f"the NPY file holds {found}, expected numbers of shape (n, 3), (n, 6) or (n, 9)", path)
    return _cloud(rows.astype(np.float64), "points as NPY", path)


def _cloud(rows: ndarray, kind: str, path: Path) -> ScanFile:
    normals, colours = None, None
    notes = []
    for start in range(3, rows.shape[1] - 2, 3):
        block = rows[:, start : start + 3]
        if normals is None and _are_normals(block):
            normals = unit_normals(block)
        elif colours is None and np.isfinite(block).all() and block.min() >= 0 and block.max() <= 255:
            scale = 255.0 if block.max() <= 1.0 else 1.0
            colours = np.round(block * scale).astype(np.uint8)
    used = 3 + 3 * (normals is not None) + 3 * (colours is not None)
    if used < rows.shape[1]:
        notes.append(f"{rows.shape[1] - used} columns of the points were left out")
    if len(rows) == 0:
        raise ScanFileError(f"the file holds no points.\nExport the scan again.\nFile {path}")
    return ScanFile(Mesh(rows[:, :3].copy(), np.empty((0, 3), np.int64), normals, colours), kind, tuple(notes), 0)


def _are_normals(block: ndarray) -> bool:
    length = np.linalg.norm(block, axis=1)
    return bool((np.abs(length - 1.0) < 0.01).mean() > 0.9)
