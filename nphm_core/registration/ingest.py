"""From a file as delivered to a scan that all later stages can use: validated, cleaned, the right side out.

Coordinates and unit stay those of the file, and so do a mesh's vertices in number and order; only triangles are
dropped or turned. Everything done is told in notes, everything doubtful in warnings. Whether the scan shows a head is
not asked here.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.config import IngestConfig
from nphm_core.errors import ScanFileError
from nphm_core.geometry.components import connected_components
from nphm_core.geometry.mesh import Mesh, face_normals, unique_edges, vertex_normals
from nphm_core.io.scan_file import ScanFile, scan_file_error
from nphm_core.registration.cloud_repair import (
    estimate_normals,
    keep_large_clusters,
    neighbours,
    orient_cloud_outwards,
    select_points,
)
from nphm_core.registration.mesh_repair import (
    drop_bad_faces,
    drop_spikes,
    keep_large_pieces,
    orient_outwards,
    select_faces,
    share_vertices,
)

_MAX_BAD_SHARE = 0.01
"""Share of a mesh's vertices without position above which the file is taken for damaged."""
_UNSURE_SHARE = 0.05
_SAME_SIDE = 0.5


@dataclass(frozen=True)
class IngestedScan:
    """A cleaned scan, in the file's own coordinates."""

    mesh: Mesh
    """Every vertex is finite; of a mesh, some may belong to no triangle."""
    statistics: dict[str, Any]
    """Plain numbers; lengths in the file's own unit."""
    notes: tuple[str, ...]
    """What was done, one sentence each."""
    warnings: tuple[str, ...]
    """What the user should look at."""


@dataclass
class _Log:
    """What is told of one scan while it is cleaned."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def note(self, count: int, text: str) -> None:
        if count:
            self.notes.append(f"{count} {text}")


def ingest_scan(scan: ScanFile, settings: IngestConfig, path: Path) -> IngestedScan:
    """Clean a scan; ScanFileError if no surface is left. `path` is for messages only."""
    log = _Log(notes=list(scan.notes))
    facts: dict[str, Any] = {"format": scan.kind, "n_file_vertices": scan.mesh.n_vertices}
    if scan.mesh.n_vertices == 0:
        raise _refusal("the scan has no vertices, expected the surface of a head", path)
    if scan.mesh.n_faces:
        mesh = _clean_mesh(scan.mesh, settings, log, facts, path)
    elif scan.n_file_faces:
        raise _refusal(f"none of the scan's {scan.n_file_faces} faces has three corners", path)
    else:
        mesh = _clean_cloud(scan.mesh, settings, log, facts, path)
    return IngestedScan(mesh, facts | _measures(mesh), tuple(log.notes), tuple(log.warnings))


def kept_vertices(delivered: Mesh, ingested: Mesh) -> Int[ndarray, " n"]:
    """Give the delivered vertex that each ingested one was; of points at one place the last."""
    if delivered.n_vertices == ingested.n_vertices:
        return np.arange(delivered.n_vertices)
    row_of = {row.tobytes(): k for k, row in enumerate(np.ascontiguousarray(delivered.vertices))}
    return np.array([row_of[row.tobytes()] for row in np.ascontiguousarray(ingested.vertices)], int)


def _refusal(what: str, path: Path) -> ScanFileError:
    return scan_file_error(what, "Export the scan again, or exclude it in the scan table", path)


def _clean_mesh(mesh: Mesh, settings: IngestConfig, log: _Log, facts: dict[str, Any], path: Path) -> Mesh:
    mesh = _drop_nan_vertices(mesh, log, path)
    mesh, n_shared = share_vertices(mesh)
    log.note(n_shared, "vertices at the place of another one: triangles now share the first of them")
    mesh, n_degenerate, n_repeated = drop_bad_faces(mesh)
    log.note(n_degenerate, "triangles with a repeated corner were dropped")
    log.note(n_repeated, "repeated triangles were dropped")
    mesh, n_spikes = drop_spikes(mesh)
    log.note(n_spikes, "triangles of spikes were dropped")
    _check_surface(mesh, settings, path)
    pieces = keep_large_pieces(mesh, settings.component_share)
    log.note(pieces.n_dropped_faces, f"triangles of {len(pieces.areas) - pieces.n_kept} small pieces were dropped")
    if pieces.is_scattered:
        log.warnings.append(f"the scan is in {len(pieces.areas)} pieces, none of them large; all were kept")
    mesh = pieces.mesh
    _check_surface(mesh, settings, path)
    oriented = orient_outwards(mesh)
    log.note(oriented.n_inconsistent, "triangles were turned to agree with their neighbours")
    if oriented.is_inside_out:
        log.warnings.append("the scan showed its inside: all triangles were turned")
    if oriented.outward_share < _UNSURE_SHARE:
        log.warnings.append("which side of the surface is the outside is unclear; the delivered side was kept")
    facts |= {
        "n_components": len(pieces.areas),
        "n_components_kept": pieces.n_kept,
        "n_spike_triangles": n_spikes,
        "n_turned_triangles": oriented.n_inconsistent,
        "is_inside_out": oriented.is_inside_out,
        "outward_share": oriented.outward_share,
    }
    return _checked_normals(oriented.mesh, log)


def _check_surface(mesh: Mesh, settings: IngestConfig, path: Path) -> None:
    area = float(face_normals(mesh.vertices, mesh.faces)[1].sum())
    if mesh.n_faces < settings.min_triangles or not area > 0:
        raise _refusal(
            f"the scan has {mesh.n_faces} usable triangles of area {area:.3g}, expected a surface of at least"
            f" {settings.min_triangles} triangles (setting ingest.min_triangles)",
            path,
        )


def _drop_nan_vertices(mesh: Mesh, log: _Log, path: Path) -> Mesh:
    bad = ~np.isfinite(mesh.vertices).all(axis=1)
    n_bad = int(bad.sum())
    if n_bad == 0:
        return mesh
    if n_bad > _MAX_BAD_SHARE * mesh.n_vertices:
        raise _refusal(
            f"{n_bad} of {mesh.n_vertices} vertices are NaN or infinite, expected at most {_MAX_BAD_SHARE:.0%}", path
        )
    hit = bad[mesh.faces].any(axis=1)
    log.warnings.append(f"{n_bad} vertices are NaN or infinite: their {int(hit.sum())} triangles were dropped")
    # They keep their index, and no triangle names them: the place only has to be finite and within the scan.
    vertices = np.where(bad[:, None], mesh.vertices[~bad].mean(axis=0), mesh.vertices)
    return select_faces(replace(mesh, vertices=vertices), ~hit)


def _checked_normals(mesh: Mesh, log: _Log) -> Mesh:
    """Drop delivered normals that contradict the triangles; turn them where the triangles were turned."""
    if mesh.normals is None:
        return mesh
    own = vertex_normals(mesh.vertices, mesh.faces)
    used = np.zeros(mesh.n_vertices, bool)
    used[mesh.faces] = True
    agreement = float((own * mesh.normals).sum(axis=1)[used].mean())
    if abs(agreement) < _SAME_SIDE:
        log.notes.append("the delivered normals contradict the triangles and were left out")
        return replace(mesh, normals=None)
    return mesh if agreement > 0 else replace(mesh, normals=-mesh.normals)


def _clean_cloud(mesh: Mesh, settings: IngestConfig, log: _Log, facts: dict[str, Any], path: Path) -> Mesh:
    good = np.isfinite(mesh.vertices).all(axis=1)
    log.note(int((~good).sum()), "points without position were removed")
    mesh = select_points(mesh, good) if not good.all() else mesh
    _check_cloud_size(mesh, settings, path)
    distance, nearest = neighbours(mesh.vertices)
    spacing = float(np.median(distance.mean(axis=1)))
    mesh, n_clusters, n_dropped = keep_large_clusters(mesh, spacing, settings.component_share)
    if n_dropped:
        log.note(n_dropped, "points far from the others were removed")
        _check_cloud_size(mesh, settings, path)
        distance, nearest = neighbours(mesh.vertices)
    mesh = _with_cloud_normals(mesh, nearest, log, facts)
    facts |= {"n_components_kept": n_clusters, "median_spacing": float(np.median(distance[:, 0]))}
    return mesh


def _check_cloud_size(mesh: Mesh, settings: IngestConfig, path: Path) -> None:
    if mesh.n_vertices < settings.min_triangles or not np.ptp(mesh.vertices, axis=0).max() > 0:
        raise _refusal(
            f"the point cloud has {mesh.n_vertices} usable points, expected at least {settings.min_triangles} at"
            " different places (setting ingest.min_triangles)",
            path,
        )


def _with_cloud_normals(mesh: Mesh, nearest: Int[ndarray, "n k"], log: _Log, facts: dict[str, Any]) -> Mesh:
    estimated = mesh.normals is None
    if mesh.normals is None:
        mesh = replace(mesh, normals=estimate_normals(mesh.vertices, nearest))
        log.notes.append("the points had no normals; they were estimated from neighbours")
    elif not mesh.normals.any(axis=1).all():
        lacking = ~mesh.normals.any(axis=1)
        mesh = replace(mesh, normals=np.where(lacking[:, None], _borrowed(mesh.normals, nearest), mesh.normals))
        log.note(int(lacking.sum()), "points without normal took that of their neighbours")
    mesh, turned, share = orient_cloud_outwards(mesh)
    if turned and not estimated:
        log.warnings.append("the points' normals pointed inwards: all were turned")
    if share < _UNSURE_SHARE:
        log.warnings.append("which side of the points is the outside is unclear")
    facts |= {"are_normals_estimated": estimated, "is_inside_out": turned and not estimated, "outward_share": share}
    return mesh


def _borrowed(normals: Float[ndarray, "n 3"], nearest: Int[ndarray, "n k"]) -> Float[ndarray, "n 3"]:
    total = normals[nearest].sum(axis=1)
    return total / np.maximum(np.linalg.norm(total, axis=1), 1e-300)[:, None]


def _measures(mesh: Mesh) -> dict[str, Any]:
    used = mesh.vertices[np.unique(mesh.faces)] if mesh.n_faces else mesh.vertices
    facts: dict[str, Any] = {
        "n_vertices": mesh.n_vertices,
        "n_triangles": mesh.n_faces,
        "is_point_cloud": mesh.n_faces == 0,
        "has_texture": mesh.texture is not None,
        "has_colours": mesh.colours is not None,
        "has_normals": mesh.normals is not None,
        "box_min": used.min(axis=0).tolist(),
        "box_max": used.max(axis=0).tolist(),
    }
    if mesh.n_faces:
        edges, count = unique_edges(mesh.faces)
        length = np.linalg.norm(mesh.vertices[edges[:, 0]] - mesh.vertices[edges[:, 1]], axis=1)
        facts |= {
            "area": float(face_normals(mesh.vertices, mesh.faces)[1].sum()),
            "median_edge": float(np.median(length)),
            "n_boundary_edges": int((count == 1).sum()),
            "n_boundary_loops": _count_loops(edges[count == 1], mesh.n_vertices),
            "n_non_manifold_edges": int((count > 2).sum()),
        }
    return facts


def _count_loops(boundary: Int[ndarray, "n 2"], n_vertices: int) -> int:
    """Count connected rings of boundary edges; rings that touch in a vertex count as one."""
    label = connected_components(boundary[:, [0, 1, 1]], n_vertices)
    return len(np.unique(label[boundary[:, 0]]))
