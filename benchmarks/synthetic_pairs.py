"""Registration problems with known correspondence: files, and a generator of warped, rough, holed copies of a template.

The truth of a generated problem is the template's rest pose under a smooth warp (the start is that too: what a linear
fit leaves), a second warp of smaller scale, and relief along the normals. The scan is the truth on a finer level,
decimated to an irregular triangulation, with noise, holes, a cut neck and a loose blob. All in mm.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import boundary_vertices, vertex_normals
from nphm_core.geometry.subdivision import loop_subdivision, subdivide_surface, subdivision_hierarchy
from nphm_core.registration.correspondences import border_hits


@dataclass(frozen=True)
class RegistrationPair:
    """A start, a scan, and where every vertex belongs."""

    rest: Float[ndarray, "n_vertices 3"]
    """The linear fit, coarse."""
    faces: Int[ndarray, "n_faces 3"]
    scan_vertices: Float[ndarray, "n_scan_vertices 3"]
    scan_faces: Int[ndarray, "n_scan_faces 3"]
    truth: Float[ndarray, "n_truth 3"]
    """True positions of the template's first vertices, coarse ones first."""
    measured: Bool[ndarray, " n_truth"]
    """Vertices that count: where the scan is."""
    surface: Float[ndarray, "n_surface 3"]
    """The clean surface that distances are measured to; the scan itself where nothing better is known."""
    surface_faces: Int[ndarray, "n_surface_faces 3"]
    trust: Float[ndarray, " n_vertices"]
    """How far our method may let a vertex follow the scan (the template's regions)."""
    hair_prone: Float[ndarray, " n_vertices"]


def read_pair(path: Path) -> RegistrationPair:
    """Read a problem: an NPZ whose keys are the fields; only `rest`, `faces`, `scan_*` and `truth` are needed."""
    with np.load(path, allow_pickle=False) as file:
        data = {key: file[key] for key in file.files}
    n, n_truth = len(data["rest"]), len(data["truth"])
    defaults = {
        "measured": np.ones(n_truth, bool),
        "surface": data["scan_vertices"],
        "surface_faces": data["scan_faces"],
        "trust": np.ones(n),
        "hair_prone": np.zeros(n),
    }
    return RegistrationPair(**(defaults | data))


def write_pair(path: Path, pair: RegistrationPair) -> None:
    """Write what `read_pair` reads."""
    np.savez_compressed(path, **asdict(pair))


def random_field(
    points: Float[ndarray, "n 3"], scale_mm: float, rms: float, n_channels: int, rng: np.random.Generator
) -> Float[ndarray, "n n_channels"]:
    """Sample a smooth random field (Gaussian covariance, random Fourier features)."""
    n_waves = 200
    frequency = rng.standard_normal((3, n_waves)) / scale_mm
    phase = rng.uniform(0, 2 * np.pi, n_waves)
    amplitude = rng.standard_normal((n_waves, n_channels)) * rms * np.sqrt(2 / n_waves)
    out = np.empty((len(points), n_channels))
    for begin in range(0, len(points), 20_000):
        block = slice(begin, begin + 20_000)
        out[block] = np.cos(points[block] @ frequency + phase) @ amplitude
    return out


def synthetic_pair(
    template: Float[ndarray, "n_vertices 3"],
    faces: Int[ndarray, "n_faces 3"],
    *,
    levels: int = 2,
    n_scan_faces: int = 400_000,
    warp_mm: float = 2.0,
    rng: np.random.Generator,
) -> RegistrationPair:
    """Make one problem from a template's vertices in mm."""
    rest = template + random_field(template, 60, 6 / np.sqrt(3), 3, rng)
    hierarchy = subdivision_hierarchy(faces, len(rest), levels)
    n_fine = hierarchy[-1].n_vertices
    finer = loop_subdivision(hierarchy[-1].faces, n_fine)
    smooth = subdivide_surface([*hierarchy, finer], faces, rest)
    warped = smooth + random_field(smooth, 25, warp_mm / np.sqrt(3), 3, rng)
    normals = vertex_normals(warped, finer.faces)
    relief = sum(random_field(smooth, scale, rms, 1, rng) for scale, rms in ((14, 0.5), (6, 0.12), (2.5, 0.03)))
    surface = warped + relief * normals
    scan_vertices, scan_faces = _scan(surface, finer.faces, n_scan_faces, rng)
    truth = surface[:n_fine]
    found = ClosestPoints(scan_vertices, scan_faces).query(truth, 0.6)
    border = boundary_vertices(len(scan_vertices), scan_faces)
    measured = (found.face >= 0) & ~border_hits(scan_faces, border, found.face, found.barycentric)
    free, bald = np.ones(len(rest)), np.zeros(len(rest))
    return RegistrationPair(rest, faces, scan_vertices, scan_faces, truth, measured, surface, finer.faces, free, bald)


def _scan(surface: ndarray, faces: ndarray, n_faces: int, rng: np.random.Generator) -> tuple[ndarray, ndarray]:
    import open3d as o3d

    mesh = o3d.geometry.TriangleMesh(o3d.utility.Vector3dVector(surface), o3d.utility.Vector3iVector(faces))
    mesh = mesh.simplify_quadric_decimation(n_faces)
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.triangles).astype(np.int64)
    centroid = vertices[faces].mean(1)
    low, high = surface[:, 1].min(), surface[:, 1].max()
    keep = centroid[:, 1] > low + 0.12 * (high - low)
    for centre in surface[rng.integers(len(surface), size=25)]:
        keep &= np.linalg.norm(centroid - centre, axis=1) > rng.uniform(3, 10)
    faces = faces[keep]
    used, index = np.unique(faces, return_inverse=True)
    vertices, faces = vertices[used], index.reshape(-1, 3)
    vertices = vertices + vertex_normals(vertices, faces) * rng.normal(0, 0.05, (len(vertices), 1))
    blob = o3d.geometry.TriangleMesh.create_sphere(12.0, 20)
    blob_vertices = np.asarray(blob.vertices) + surface[surface[:, 2].argmax()] + np.array([15.0, -20.0, 25.0])
    blob_faces = np.asarray(blob.triangles).astype(np.int64) + len(vertices)
    return np.concatenate([vertices, blob_vertices]), np.concatenate([faces, blob_faces])
