"""Compile the numeric kernels into Numba's cache, so that the first scan does not wait for it: part of the set-up."""

import logging
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import numpy as np

from nphm_core.config import ArapConfig
from nphm_core.geometry.mesh import boundary_vertices, vertex_normals
from nphm_core.geometry.subdivision import loop_subdivision, subdivision_hierarchy
from nphm_core.io.meshes import read_scan
from nphm_core.registration.arap import register_arap, trust_of_regions
from nphm_core.registration.correspondences import ScanTarget
from nphm_core.registration.scan_surface import ScanSurface

log = logging.getLogger("pipelines.compile_kernels")

# Their kernels have explicit signatures: compiled on import.
_MODULES = (
    "geometry.components",
    "geometry.intersections",
    "geometry.quality",
    "geometry.sampling",
    "synthetic.fusion",
    "synthetic.noise",
)
_CORNERS = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
_FACES = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])


def main() -> int:
    """Use every kernel once, on a small ball."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    started = time.process_time()
    for name in _MODULES:
        import_module(f"nphm_core.{name}")
    vertices, faces = _ball(3)
    _register(vertices, faces)
    _read_obj(vertices, faces)
    _evaluate_field()
    log.info("kernels are ready (%.0f CPU seconds)", time.process_time() - started)
    return 0


def _ball(levels: int) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces = _CORNERS, _FACES
    for _ in range(levels):
        step = loop_subdivision(faces, len(vertices))
        vertices, faces = step.matrix @ vertices, step.faces
    return vertices, faces


def _register(vertices: np.ndarray, faces: np.ndarray) -> None:
    n = len(vertices)
    scan_vertices = 90.0 * vertices
    normals, border = vertex_normals(scan_vertices, faces), boundary_vertices(n, faces)
    scan = ScanSurface(scan_vertices, faces, normals, border, np.ones(n), "none")
    hierarchy = subdivision_hierarchy(faces, n, 1)
    register_arap(89.0 * vertices, faces, hierarchy, ScanTarget(scan), ArapConfig(), trust=trust_of_regions({}, n))


def _read_obj(vertices: np.ndarray, faces: np.ndarray) -> None:
    lines = [*("v {} {} {}".format(*v) for v in vertices), *("f {} {} {}".format(*(f + 1)) for f in faces)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ball.obj"
        path.write_text("\n".join(lines) + "\n")
        read_scan(path)


def _evaluate_field() -> None:
    import torch

    from nphm_core.config import IdentityModelConfig
    from nphm_core.models.identity_field import N_ANCHORS, build_identity_field

    field = build_identity_field(IdentityModelConfig(n_global=4, n_local=4, n_hidden=16), torch.zeros(N_ANCHORS, 3))
    with torch.no_grad():
        field.sdf(torch.zeros(1, 16, 3), torch.zeros(1, field.n_code))


if __name__ == "__main__":
    sys.exit(main())
