"""Wavefront OBJ out: vertices and triangles in their order, nothing else.

Colours after positions, which some programs write, make others read points with six coordinates.
"""

from pathlib import Path

from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import write_text


def write_obj(path: Path, mesh: Mesh, *, remark: str = "") -> None:
    """Write positions with nine significant digits, so that reading gives each float32 back.

    The format knows no unit: `remark` should name it.
    """
    parts = [f"# {text}" for text in remark.splitlines()]
    parts += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in mesh.vertices.tolist()]
    parts += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in mesh.faces.tolist()]
    write_text(path, "\n".join(parts) + "\n")
