"""What a reader of a scan file gives, and the checks and repairs that all readers share.

Coordinates are those of the file. Nothing here merges, drops or reorders vertices, except where a format has already
split them and the note says that they were welded.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.errors import ScanFileError
from nphm_core.geometry.mesh import Mesh

_MAX_NAME = 200
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ScanFile:
    """A scan as its file has it."""

    mesh: Mesh
    kind: str
    """Name of the format, as people say it: `PLY (binary)`."""
    notes: tuple[str, ...] = ()
    """What was done or left out while reading, one sentence each."""
    n_file_faces: int | None = None
    """Faces in the file before polygons were cut into triangles."""
    uv: Float[ndarray, "n_faces 3 2"] | None = None
    """Texture coordinates of the corners, also where no image was found; they count from the bottom left."""


def scan_file_error(what: str, todo: str, path: Path) -> ScanFileError:
    """Give the error for a scan file: what is wrong and expected, what to do, and the path at the end."""
    return ScanFileError(f"{what}.\n{todo}.\nFile {path}")


def damaged(what: str, path: Path) -> ScanFileError:
    """Give the error for a file that ends early or holds what its format does not allow."""
    return scan_file_error(what, "Export or copy the scan again; the file is incomplete or damaged", path)


def check_faces(faces: Int[ndarray, "n 3"], n_vertices: int, path: Path) -> None:
    """Raise ScanFileError if a face names a vertex that the file does not have."""
    if len(faces) and (faces.min() < 0 or faces.max() >= n_vertices):
        bad = int(faces.max()) if faces.max() >= n_vertices else int(faces.min())
        raise damaged(f"a face names vertex {bad}, expected 0 to {n_vertices - 1}", path)


def fan_triangles(
    corners: Int[ndarray, " n_corners"], sizes: Int[ndarray, " n_polygons"]
) -> tuple[Int[ndarray, "n_triangles 3"], Int[ndarray, "n_triangles 3"]]:
    """Cut polygons into fans: the triangles' values, and the position of each in `corners`.

    Polygons with fewer than three corners give nothing.
    """
    if (sizes == 3).all():
        where = np.arange(len(corners)).reshape(-1, 3)
        return corners.reshape(-1, 3), where
    n_triangles = np.maximum(sizes - 2, 0)
    start = np.repeat(np.cumsum(sizes) - sizes, n_triangles)
    step = np.arange(n_triangles.sum()) - np.repeat(np.cumsum(n_triangles) - n_triangles, n_triangles)
    where = np.stack([start, start + step + 1, start + step + 2], axis=1)
    return corners[where], where


def weld(vertices: Float[ndarray, "n 3"]) -> tuple[Int[ndarray, " n_kept"], Int[ndarray, " n"]]:
    """Give the first vertex at each exact position, in file order, and for every vertex the index of its keeper."""
    _, first, inverse = np.unique(_as_rows(vertices), return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse.ravel()]


def _as_rows(vertices: Float[ndarray, "n 3"]) -> ndarray:
    # Adding zero turns -0.0 into 0.0, which is the same place with other bytes.
    rows = np.ascontiguousarray(vertices, np.float64) + 0.0
    return rows.view(np.dtype((np.void, 24))).ravel()


def unit_normals(normals: Float[ndarray, "n 3"] | None) -> Float[ndarray, "n 3"] | None:
    """Give delivered normals at length one; zero where the file has none, None if it has hardly any."""
    if normals is None:
        return None
    length = np.linalg.norm(normals, axis=1)
    good = np.isfinite(length) & (length > 0)
    if good.mean() < 0.5:
        return None
    return np.where(good[:, None], normals / np.where(good, length, 1.0)[:, None], 0.0)


def find_image(name: str, folders: list[Path]) -> Path | None:
    """Find an image that a material names, in its folders, with any path, case and slashes of another machine."""
    name = name.strip().strip('"').replace("\\", "/")
    if len(name) > _MAX_NAME:
        # The system has no such file, and says so by an error.
        return None
    for folder in folders:
        for candidate in (folder / name, folder / Path(name).name):
            if candidate.is_file():
                return candidate
    wanted = Path(name).name.lower()
    for folder in folders:
        for candidate in sorted(folder.iterdir()) if folder.is_dir() else []:
            if candidate.name.lower() == wanted:
                return candidate
    return None


def image_beside(path: Path) -> Path | None:
    """Find the image with the stem of a mesh file, if there is one."""
    for suffix in IMAGE_SUFFIXES:
        for candidate in (path.with_suffix(suffix), path.with_suffix(suffix.upper())):
            if candidate.is_file():
                return candidate
    return None
