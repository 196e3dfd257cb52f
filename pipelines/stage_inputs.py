"""Reading what earlier stages wrote, for the stages that work in metric space (mm)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import read_json, read_npz
from nphm_core.io.meshes import read_mesh, write_mesh
from nphm_core.registration.scan_surface import ScanSurface, scan_surface, unmasked
from nphm_core.spaces import Similarity
from pipelines.stage_command import Job

if TYPE_CHECKING:
    from nphm_core.registration.flame_fit import ScanLandmarks
    from nphm_core.registration.given_landmarks import GivenLandmarks


def read_landmarks(job: Job) -> "tuple[ScanLandmarks, dict[str, Any]]":
    """Read the scan's landmarks in mm, and all facts that `backproject` wrote with them."""
    # Late: it loads the compiled kernels, half a second for stages that need none of them.
    from nphm_core.registration.flame_fit import ScanLandmarks

    facts = read_json(job.folder / "landmarks3d.json")
    landmarks = ScanLandmarks(
        np.array(facts["index"], int),
        np.array(facts["points_mm"], float).reshape(-1, 3),
        np.array(facts["weight"], float),
        are_given="given" in facts,
    )
    return landmarks, facts


def read_given_landmarks(job: Job) -> "GivenLandmarks | None":
    """Read what `ingest` made of the scan table's landmark file; None without one."""
    from nphm_core.registration.given_landmarks import GivenLandmarks

    path = job.folder / "given_landmarks.json"
    return GivenLandmarks.from_json(read_json(path)) if path.is_file() else None


def read_scan_surface(job: Job) -> ScanSurface:
    """Read the scan in mm, facing outwards, with the evidence of hair."""
    mesh, mask = _read_scan(job.folder)
    landmarks, facts = read_landmarks(job)
    return scan_surface(
        mesh,
        facts["mm_per_scan_unit"],
        landmarks.points_mm,
        landmarks.index,
        keep_mask=mask,
        flip=bool(facts.get("flip_faces", False)),
    )


def metric_mesh(job: Job) -> Mesh:
    """Read the scan in mm, facing outwards, with its colours, without what its mask ignores."""
    return metric_scan(job.folder)


def metric_scan(folder: Path) -> Mesh:
    """Read the scan of a scan's folder in mm, facing outwards, with its colours, without what its mask ignores."""
    mesh, _ = _read_scan(folder)
    facts = read_json(folder / "landmarks3d.json")
    faces = mesh.faces[:, ::-1] if facts.get("flip_faces", False) else mesh.faces
    texture = mesh.texture
    if texture is not None and faces is not mesh.faces:
        texture = type(texture)(texture.uv[:, ::-1], texture.image)
    return Mesh(mesh.vertices * facts["mm_per_scan_unit"], faces, mesh.normals, mesh.colours, texture)


def read_fit(job: Job, folder: Path | None = None) -> tuple[dict[str, ndarray], Similarity]:
    """Read the arrays of `flame.npz` and the map from metric to canonical space, of this scan or a related one."""
    folder = folder or job.folder
    facts = read_json(folder / "flame.json")
    return read_npz(folder / "flame.npz"), Similarity.from_json(facts["T_canonical_metric"])


def write_template_mesh(
    job: Job, name: str, vertices: Float[ndarray, "n 3"], mesh_faces: ndarray, more: dict[str, Any] | None = None
) -> None:
    """Write a mesh in the template's topology, or its subdivision's, in metric space."""
    facts = {
        "space": "metric",
        "unit": "mm",
        "scan": job.scan_id,
        "template": job.template.name,
        "template_hash": job.template.hash,
        "stage": job.stage.name,
        "stage_version": job.stage.version,
    }
    write_mesh(job.out / name, Mesh(vertices, mesh_faces), facts | (more or {}))


def _read_scan(folder: Path) -> tuple[Mesh, Float[ndarray, " n"] | None]:
    """Read the scan without what its mask ignores, and the mask of what is left."""
    mesh, path = read_mesh(folder / "scan.ply"), folder / "mask.npz"
    return unmasked(mesh, read_npz(path)["keep"]) if path.is_file() else (mesh, None)
