"""Correspondence between registered meshes of different people, against scans that have one of their own.

    python -m benchmarks.simpop --template FOLDER [--template FOLDER ...] --out FOLDER

The six faces of MeshMonk's SIMPOP share their topology. A vertex of registration i lies on a material point of scan i
(triangle and weights); the same point on scan j is where that vertex of registration j should be. The error is the
distance between both, in mm, over the vertices of the template's face region that lie on scan i and not at its rim.
SIMPOP's own correspondence comes from a registration, too, so that zero is neither possible nor wanted.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray

from benchmarks.stage_runs import FRONT_STAGES, print_table, run_stages
from nphm_core.config import SubdivideConfig
from nphm_core.evaluation.fine_template import FineTemplate, fine_template
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import Mesh, boundary_vertices, vertex_normals
from nphm_core.io.files import read_json
from nphm_core.io.meshes import read_facts, read_mesh, read_scan
from nphm_core.template.template import Template, read_template

N_FACES = 6
_STAGES = (*FRONT_STAGES, "backproject", "flame_fit", "subdivide", "arap")
_NEAR_MM = 2.0
_MM_PER_METRE = 1000.0
# MediaPipe's landmarks in the middle of each part of the face, and how far a part reaches around them, in mm.
_PARTS = {
    "eyes": ((159, 145, 33, 133, 386, 374, 263, 362), 9.0),
    "mouth": ((61, 291, 0, 17, 13, 14), 9.0),
    "nose": ((4, 5, 6, 195, 48, 278, 2), 11.0),
    "brows": ((105, 66, 334, 296, 107, 336), 9.0),
    "chin": ((152, 200, 175), 15.0),
    "forehead": ((10, 151, 109, 338), 20.0),
}


@dataclass(frozen=True)
class Registered:
    """One face: its scan, its registered mesh, and where on the scan each vertex lies."""

    scan: Mesh
    vertices: ndarray
    corners: ndarray
    barycentric: ndarray
    on_scan: ndarray
    """Vertices near the scan and not at its rim."""

    def carried_to(self, other: "Registered") -> ndarray:
        """Give the same material points on another scan."""
        points: ndarray = np.einsum("nk,nkd->nd", self.barycentric, other.scan.vertices[self.corners])
        return points


def registered_face(scan: Mesh, vertices: ndarray) -> Registered:
    """Find where on its scan each vertex lies."""
    found = ClosestPoints(scan.vertices, scan.faces).query(vertices, np.inf)
    corners = scan.faces[found.face]
    at_rim = boundary_vertices(scan.n_vertices, scan.faces)[corners].any(1)
    return Registered(scan, vertices, corners, found.barycentric, (found.distance < _NEAR_MM) & ~at_rim)


def pair_errors(faces: list[Registered], region: ndarray) -> dict[tuple[int, int], tuple[ndarray, ndarray]]:
    """Give, for each ordered pair, the vertices that count and the error vectors at them."""
    errors = {}
    for i, one in enumerate(faces):
        use = np.flatnonzero(one.on_scan & region)
        for j, other in enumerate(faces):
            if i != j:
                errors[i, j] = (use, other.vertices[use] - one.carried_to(other)[use])
    return errors


def face_parts(template: Template, fine: FineTemplate) -> dict[str, ndarray]:
    """Give the parts of the face around landmarks of the mean head; what is left is `cheeks`."""
    points = template.landmarks.by_index(template.model.v_template * _MM_PER_METRE, template.faces)
    left, parts = fine.regions["face"].copy(), {}
    for name, (landmarks, reach) in _PARTS.items():
        known = np.array([points[k] for k in landmarks if k in points])
        near = np.linalg.norm(fine.rest[:, None] - known, axis=2).min(1) < reach
        parts[name] = near & left
        left &= ~near
    return parts | {"cheeks": left}


def print_pairs(errors: dict[tuple[int, int], tuple[ndarray, ndarray]]) -> None:
    """Print the median error of each ordered pair."""
    header = ["from / to", *(f"{j + 1:02d}" for j in range(N_FACES))]
    rows = []
    for i in range(N_FACES):
        cells = [f"{np.median(_length(errors[i, j][1])):.2f}" if i != j else "-" for j in range(N_FACES)]
        rows.append([f"{i + 1:02d}", *cells])
    print_table(header, rows)


def print_parts(faces: list[Registered], errors: dict[tuple[int, int], tuple[ndarray, ndarray]],
                parts: dict[str, ndarray], turn: ndarray) -> None:  # fmt: skip
    """Print, for each part of the face, the error and how each face's part lies off the others' in the head's frame.

    In the frame +x is the subject's left, +y up, +z out of the face.
    """
    rows = []
    for name, part in parts.items():
        vectors = [vector[part[use]] for use, vector in errors.values()]
        length = _length(np.concatenate(vectors))
        if not len(length):
            continue
        off = []
        for j in range(len(faces)):
            mine = np.concatenate([errors[i, j][1][part[errors[i, j][0]]] for i in range(len(faces)) if i != j])
            off.append("({:+.1f} {:+.1f} {:+.1f})".format(*(mine.mean(0) @ turn.T)))
        across = np.concatenate([_across(faces[j], errors[i, j], part) for i, j in errors])
        numbers = [np.median(length), np.percentile(length, 90), np.median(across)]
        rows.append([name, *(f"{value:.2f}" for value in numbers), *off])
    print_table(
        ["part", "median", "p90", "along surface", *(f"off {j + 1:02d} (x y z)" for j in range(len(faces)))], rows
    )


def _across(face: Registered, error: tuple[ndarray, ndarray], part: ndarray) -> ndarray:
    """Give the error along the surface only."""
    use, vector = error[0][part[error[0]]], error[1][part[error[0]]]
    normals = vertex_normals(face.scan.vertices, face.scan.faces)
    n = np.einsum("nk,nkd->nd", face.barycentric[use], normals[face.corners[use]])
    n /= np.maximum(_length(n), 1e-300)[:, None]
    return _length(vector - (vector * n).sum(1, keepdims=True) * n)


def _length(vectors: ndarray) -> ndarray:
    length: ndarray = np.linalg.norm(vectors, axis=1)
    return length


def _report(results: Path, template: Template, scans: list[Mesh], mesh_name: str) -> None:
    folders = [results / "scans" / f"simpop{k + 1}" / "neutral" for k in range(N_FACES)]
    levels = read_facts(folders[0] / "registered.ply")["levels"] if mesh_name == "registered.ply" else 0
    fine = fine_template(template, SubdivideConfig(levels=levels))
    faces = [
        registered_face(scan, read_mesh(folder / mesh_name).vertices)
        for scan, folder in zip(scans, folders, strict=True)
    ]
    errors = pair_errors(faces, fine.regions["face"])
    every = _length(np.concatenate([vector for _, vector in errors.values()]))
    share = np.mean([face.on_scan[fine.regions["face"]].mean() for face in faces])
    print(
        f"\n### {mesh_name}: median {np.median(every):.2f} mm, mean {every.mean():.2f}, 90 % below"
        f" {np.percentile(every, 90):.2f}; {share:.0%} of the face on the scan\n"
    )
    print_pairs(errors)
    print()
    turn = np.array(read_json(folders[0] / "landmarks3d.json")["T_head_metric"]["rotation"])
    print_parts(faces, errors, face_parts(template, fine), turn)


def main() -> int:
    """Register the six faces with each template and print the errors."""
    shared = os.environ.get("NPHM_SHARED")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simpop", description=__doc__)
    parser.add_argument("--scans", default=str(Path(shared) / "scans") if shared else "", help="folder of the scans")
    parser.add_argument("--template", action="append", required=True, help="folder of a template; may be repeated")
    parser.add_argument("--out", required=True, help="folder to write")
    options = parser.parse_args()
    if not options.scans:
        print("name the folder of the scans with --scans, or set NPHM_SHARED", file=sys.stderr)
        return 2
    paths = [Path(options.scans).resolve() / "meshmonk_simpop" / f"SIMPOP_{k + 1:02d}.obj" for k in range(N_FACES)]
    out, scans = Path(options.out), [read_scan(path) for path in paths]
    ids = [f"simpop{k + 1}/neutral" for k in range(N_FACES)]
    out.mkdir(parents=True, exist_ok=True)
    rows = [f"simpop{k + 1}\tneutral\tclosed\t{path}\tauto" for k, path in enumerate(paths)]
    table = out / "scans.tsv"
    table.write_text("\n".join(["subject\texpression\tneutral\tpath\tunit", *rows]) + "\n")
    for folder in map(Path, options.template):
        run_stages(_STAGES, out / folder.name, ids, table=table, template=folder)
        print(f"\n## Template {folder.name}")
        for mesh_name in ("flame.ply", "registered.ply"):
            _report(out / folder.name, read_template(folder), scans, mesh_name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
