"""A mesh as the bytes of a file, for a browser to save."""

import tempfile
from pathlib import Path

from nphm_core.geometry.mesh import Mesh
from nphm_core.io.glb import write_glb_metres
from nphm_core.io.ply import write_ply

_MM_PER_METRE = 1000.0


def mesh_bytes(mesh: Mesh, kind: str) -> bytes:
    """Give a mesh in mm as `ply` (mm) or `glb` (metres, by its definition)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"mesh.{kind}"
        if kind == "ply":
            write_ply(path, mesh)
        elif kind == "glb":
            write_glb_metres(path, Mesh(mesh.vertices / _MM_PER_METRE, mesh.faces, colours=mesh.colours))
        else:
            raise ValueError(f"the kind is {kind}; expected ply or glb")
        return path.read_bytes()
