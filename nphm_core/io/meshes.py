"""Reading scans of any kind, and reading and writing the meshes of this project.

A scan keeps the coordinates, the unit and the vertex order of its file. A mesh of this project is a binary PLY with a
JSON of the same name: space, unit, template, scan id, transforms, stage version.
"""

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nphm_core.errors import DamagedFileError, ScanFileError, TopologyError
from nphm_core.geometry.mesh import Mesh, Texture
from nphm_core.io.files import read_json, write_json
from nphm_core.io.images import read_image
from nphm_core.io.ply import read_ply, write_ply
from nphm_core.io.scan_file import ScanFile, damaged, scan_file_error

_READERS = {
    ".ply": "ply.read_ply",
    ".obj": "obj.read_obj",
    ".glb": "gltf.read_gltf",
    ".gltf": "gltf.read_gltf",
    ".stl": "simple_formats.read_stl",
    ".off": "simple_formats.read_off",
    ".xyz": "simple_formats.read_points",
    ".pts": "simple_formats.read_points",
    ".txt": "simple_formats.read_points",
    ".asc": "simple_formats.read_points",
    ".csv": "simple_formats.read_points",
    ".npy": "simple_formats.read_points_npy",
}
SCAN_SUFFIXES = tuple(_READERS)
"""Suffixes of files that `read_scan` reads, in lower case."""


def read_scan_file(path: Path, *, texture: Path | None = None, texture_origin: str = "") -> ScanFile:
    """Read what a lab delivers, with notes on what was done; NaN vertices and an empty mesh are passed on.

    `texture` replaces the images that the file names. `texture_origin` says where its coordinate v = 0 lies: `top`,
    `bottom`, or empty for what the file's format prescribes (top for glTF, bottom for all others).
    """
    path = Path(path)
    if not path.is_file():
        raise scan_file_error(
            "the scan file does not exist" if not path.exists() else "the scan is a folder, expected a file",
            "Correct its path in the scan table, or exclude the scan there",
            path,
        )
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise scan_file_error(
            f"files of the kind {path.suffix or 'without suffix'} are not read, expected {' '.join(SCAN_SUFFIXES)}",
            "Export the scan as PLY or OBJ",
            path,
        )
    if path.stat().st_size == 0:
        raise damaged("the scan file is empty, it has 0 bytes", path)
    module, name = reader.split(".")
    # By name and late: a PLY needs no glTF reader.
    scan: ScanFile = getattr(importlib.import_module(f"nphm_core.io.{module}"), name)(path)
    return scan if texture is None else _with_texture(scan, Path(texture), texture_origin)


def _with_texture(scan: ScanFile, image: Path, origin: str) -> ScanFile:
    if scan.uv is None:
        raise scan_file_error(
            "the scan has no texture coordinates, expected them for the texture of the scan table",
            "Remove the texture from the scan table, or export the scan with texture coordinates",
            image,
        )
    native = "top" if scan.kind in ("GLB", "glTF") else "bottom"
    # Readers have already turned the coordinates so that they count from the bottom, as the format prescribes.
    flip = origin not in ("", native)
    uv = np.stack([scan.uv[..., 0], 1.0 - scan.uv[..., 1]], axis=-1) if flip else scan.uv
    note = f"the texture {image.name} comes from the scan table" + (", turned upside down" if flip else "")
    mesh = replace(scan.mesh, texture=Texture(uv=uv, image=read_image(image)))
    return replace(scan, mesh=mesh, notes=(*(note for note in scan.notes if "texture coord" not in note), note))


def read_scan(path: Path) -> Mesh:
    """Read a scan and insist on a surface or cloud of finite points: ScanFileError otherwise."""
    mesh = read_scan_file(path).mesh
    if mesh.n_vertices == 0:
        raise scan_file_error("the scan has no vertices, expected a head", "Export the scan again", Path(path))
    n_bad = int((~np.isfinite(mesh.vertices).all(axis=1)).sum())
    if n_bad:
        raise scan_file_error(
            f"{n_bad} of {mesh.n_vertices} vertices are NaN or infinite, expected numbers",
            "Export the scan again without them",
            Path(path),
        )
    return mesh


def read_mesh(path: Path, *, template_hash: str | None = None) -> Mesh:
    """Read a mesh of this project; with `template_hash`, TopologyError unless its JSON names that template."""
    path = Path(path)
    if template_hash is not None:
        found = read_facts(path).get("template_hash")
        if found != template_hash:
            raise TopologyError(
                f"the mesh belongs to the template {found}, expected {template_hash}.\n"
                f"Delete it and run again, so that its stage makes it with this template.\nFile {path}"
            )
    try:
        return read_ply(path).mesh
    except FileNotFoundError:
        raise DamagedFileError(f"a mesh is missing; expected it. Run the stage that makes it. File {path}") from None
    except ScanFileError as error:
        # The same trouble in a file of our own is no fault of the scan.
        raise DamagedFileError(f"{error}\nDelete it and run again, so that its stage makes it anew") from None


def read_facts(path: Path) -> dict[str, Any]:
    """Read the JSON beside a mesh of this project."""
    facts = read_json(Path(path).with_suffix(".json"))
    if not isinstance(facts, dict):
        raise DamagedFileError(
            "the JSON beside a mesh holds no object; expected its facts. Delete the mesh and run again.\n"
            f"File {Path(path).with_suffix('.json')}"
        )
    return facts


def write_mesh(path: Path, mesh: Mesh, facts: Mapping[str, Any], *, image_name: str = "texture.png") -> None:
    """Write a binary PLY, its texture beside it, and its facts as JSON of the same name.

    `facts` names at least `space` and `unit`.
    """
    missing = [key for key in ("space", "unit") if key not in facts]
    if missing:
        raise ValueError(f"the facts of a mesh lack {' and '.join(missing)}")
    write_ply(path, mesh, image_name=image_name)
    write_json(Path(path).with_suffix(".json"), dict(facts))
