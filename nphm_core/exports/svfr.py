"""The folder that NeRSemble's benchmark of single-view face reconstruction (SVFR) takes, and its zip.

`<participant>/<image key>/mesh_posed.ply` has the expression of the image, `mesh_neutral.ply` is the same person at
rest; `landmarks_posed.npy` and `landmarks_neutral.npy` are NoW's seven landmarks (7 x 3), which the benchmark needs
unless the mesh has FLAME's topology. It aligns the meshes itself, so their frame does not matter. After the README of
its toolkit, which names no unit; ours is the metre, as FLAME's meshes are in metres.
"""

import zipfile
from pathlib import Path

import numpy as np

from nphm_core.exports.flame_files import has_flame_topology
from nphm_core.exports.ibug_landmarks import IbugEmbedding
from nphm_core.exports.nphm_layout import write_npy
from nphm_core.exports.registered_scan import RegisteredScan
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import atomic_write
from nphm_core.io.ply import write_ply
from nphm_core.template.model import Coefficients
from nphm_core.template.template import Template


def write_svfr_image(
    root: Path, participant: str, image_key: str, scan: RegisteredScan, template: Template, landmarks: IbugEmbedding
) -> None:
    """Write what was found for one image: the registered mesh, and its fitted identity without expression and pose."""
    T = scan.to_metres
    posed = Mesh(T.apply(scan.mesh(template, "template").vertices), template.faces)
    rest = Coefficients(scan.fit.identity, np.zeros_like(scan.fit.expression), np.zeros_like(scan.fit.rotations))
    neutral = Mesh((T @ scan.T_metric_model).apply(template.model.posed(rest)), template.faces)
    for name, mesh in (("posed", posed), ("neutral", neutral)):
        folder = root / participant / image_key
        write_ply(folder / f"mesh_{name}.ply", mesh)
        if not has_flame_topology(template):
            write_npy(folder / f"landmarks_{name}.npy", landmarks.now7(mesh.vertices, template.faces))


def zip_folder(folder: Path, path: Path) -> None:
    """Pack a folder's files, those in its subfolders only; the same files give the same bytes."""
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.glob("*/**/*")):
            if file.is_file():
                entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), (1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, file.read_bytes())
