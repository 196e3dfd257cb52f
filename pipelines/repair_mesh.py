"""Fill the holes of a mesh, or lay a surface through a point cloud with normals.

Runs as a process of its own: the library that does it is under the GPL and stays behind this command line. Vertices
are not moved; some may be dropped or split.
"""

import argparse
import logging
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from nphm_core.errors import NphmError
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.meshes import read_mesh
from nphm_core.io.ply import write_ply

log = logging.getLogger("nphm")

TROUBLE_EXIT = 75
"""Exit code where the machine is to blame (disk, memory) and not the mesh; the value of EX_TEMPFAIL."""
TIMEOUT_SIGNAL = signal.SIGPROF
"""Signal that ends the process at its limit."""

_ALL_FILTERS = 281
_MAX_ROUNDS = 5


def repair(mesh: Mesh, *, max_hole_edges: int, poisson_depth: int, is_manifold: bool) -> Mesh:
    """Close a mesh's holes, or those of the surface through a point cloud.

    Of a mesh that is known to be manifold only the holes are looked at, which is faster.
    """
    import pymeshlab

    # Without libOpenGL the import succeeds but the filters for meshes are missing.
    if len(pymeshlab.filter_list()) < _ALL_FILTERS:
        raise NphmError(
            "pymeshlab lacks filters: a system library is missing. Install it: apt-get install -y libopengl0"
        )
    meshes = pymeshlab.MeshSet(verbose=False)
    if mesh.n_faces:
        used, faces = np.unique(mesh.faces, return_inverse=True)
        meshes.add_mesh(pymeshlab.Mesh(vertex_matrix=mesh.vertices[used], face_matrix=faces.reshape(-1, 3)))
    else:
        meshes.add_mesh(pymeshlab.Mesh(vertex_matrix=mesh.vertices, v_normals_matrix=mesh.normals))
        meshes.generate_surface_reconstruction_screened_poisson(depth=poisson_depth, threads=1, preclean=True)
    if not (is_manifold and mesh.n_faces):
        _make_manifold(meshes)
    _fill_holes(meshes, max_hole_edges)
    result = meshes.current_mesh()
    return Mesh(np.asarray(result.vertex_matrix(), np.float64), np.asarray(result.face_matrix(), np.int64))


def _make_manifold(meshes: Any) -> None:
    # Before any hole is filled: one non-manifold vertex on a rim keeps the hole open.
    meshes.meshing_remove_duplicate_faces()
    meshes.meshing_remove_null_faces()
    meshes.meshing_repair_non_manifold_edges(method="Remove Faces")
    meshes.meshing_repair_non_manifold_vertices()


def _fill_holes(meshes: Any, max_hole_edges: int) -> None:
    for _ in range(_MAX_ROUNDS):
        # With the test for self-intersections a triangle stays open in large, uneven rims.
        done = meshes.meshing_close_holes(maxholesize=max_hole_edges, selfintersection=False)
        if done["closed_holes"] == 0:
            break


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.repair_mesh", description=__doc__)
    parser.add_argument("mesh", type=Path, help="PLY to repair")
    parser.add_argument("out", type=Path, help="PLY to write")
    parser.add_argument("--max-hole-edges", type=int, default=5000, help="longer boundary loops stay open")
    parser.add_argument("--poisson-depth", type=int, default=8, help="octree depth for point clouds")
    parser.add_argument("--is-manifold", action="store_true", help="the mesh has no defect but its holes")
    parser.add_argument("--cpu-limit-s", type=float, default=0.0, help="give up after so much work; 0 for never")
    options = parser.parse_args()
    # CPU time, not the wall clock's: what is made must not depend on what else the machine does.
    signal.setitimer(signal.ITIMER_PROF, options.cpu_limit_s)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        mesh = read_mesh(options.mesh)
        if mesh.n_faces == 0 and mesh.normals is None:
            raise NphmError(f"the point cloud has no normals, expected them. Ingest it first. File {options.mesh}")
        closed = repair(
            mesh,
            max_hole_edges=options.max_hole_edges,
            poisson_depth=options.poisson_depth,
            is_manifold=options.is_manifold,
        )
        write_ply(options.out, closed, exact=True)
    except NphmError as error:
        log.error("%s", error)
        sys.exit(1)
    except (OSError, MemoryError) as error:
        log.error("%s: %s", type(error).__name__, error)
        sys.exit(TROUBLE_EXIT)


if __name__ == "__main__":
    main()
