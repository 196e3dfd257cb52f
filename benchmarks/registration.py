"""Measure our non-rigid registration beside trimesh's and Open3D's, on the same pairs and from the same start.

    python -m benchmarks.registration [PAIR.npz ...] [--template SOURCE] [--out FOLDER]

Without pairs, two are generated from the template. Every method gets the same linear fit and scan and neither
landmarks nor colours. Ours refines twice; the peers get --peer-levels refinements (they are too slow for two).
Distances count at the coarse template vertices that all methods share, where the scan is. CPU seconds of the process,
one thread, imports excluded; ours includes the search tree. Prints a table, and writes it with all numbers to --out.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
from numpy import ndarray

from benchmarks.synthetic_pairs import RegistrationPair, read_pair, synthetic_pair
from nphm_core.config import ArapConfig
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import boundary_vertices, vertex_normals
from nphm_core.geometry.quality import flipped_triangles
from nphm_core.geometry.subdivision import subdivide_surface, subdivision_hierarchy
from nphm_core.registration.arap import register_arap
from nphm_core.registration.correspondences import ScanTarget, Trust
from nphm_core.registration.scan_surface import ScanSurface

_HANDLE_SHARE = 0.1
_OPEN3D_ROUNDS, _OPEN3D_ITERATIONS = 5, 5
_MAX_DISTANCE_MM = 10.0


@dataclass(frozen=True)
class Measures:
    """What one method made of one pair; lengths in mm."""

    method: str
    n_vertices: int
    surface_mean: float
    surface_p95: float
    correspondence_mean: float
    correspondence_median: float
    flipped: int
    cpu_s: float


def main() -> None:
    """Run all methods on all pairs."""
    options = _parser().parse_args()
    pairs = _pairs(options)
    methods = {"ours": register_ours, "trimesh nricp_amberg": register_trimesh, "open3d ARAP": register_open3d}
    chosen = {name: method for name, method in methods.items() if not options.methods or name in options.methods}
    _warm_up()
    rows: dict[str, list[Measures]] = {}
    for name, pair in pairs.items():
        rows[name] = [_start(pair)]
        for method, register in chosen.items():
            levels = 2 if method == "ours" else options.peer_levels
            rows[name].append(_measured(method, pair, register, levels))
            print(name, rows[name][-1], file=sys.stderr, flush=True)
    text = _report(rows, sys.argv)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "registration.md").write_text(text)
        numbers = {name: [asdict(row) for row in table] for name, table in rows.items()}
        (options.out / "registration.json").write_text(json.dumps(numbers, indent=1))


def register_ours(pair: RegistrationPair, levels: int) -> tuple[ndarray, float]:
    """Give registered vertices and CPU seconds."""
    border = boundary_vertices(len(pair.scan_vertices), pair.scan_faces)
    normals = vertex_normals(pair.scan_vertices, pair.scan_faces)
    bare = np.ones(len(pair.scan_vertices))
    scan = ScanSurface(pair.scan_vertices, pair.scan_faces, normals, border, bare, "none")
    hierarchy = subdivision_hierarchy(pair.faces, len(pair.rest), levels)
    started = time.process_time()
    trust = Trust(pair.trust.astype(float), pair.hair_prone.astype(float), np.zeros(len(pair.trust)))
    result = register_arap(pair.rest, pair.faces, hierarchy, ScanTarget(scan), ArapConfig(), trust=trust)
    return result.vertices, time.process_time() - started


def register_trimesh(pair: RegistrationPair, levels: int) -> tuple[ndarray, float]:
    """Give the vertices of trimesh's Amberg registration with its defaults, and CPU seconds."""
    import trimesh

    rest, faces = _refined(pair, levels)
    source = trimesh.Trimesh(rest, faces, process=False)
    target = trimesh.Trimesh(pair.scan_vertices, pair.scan_faces, process=False)
    started = time.process_time()
    vertices = trimesh.registration.nricp_amberg(source, target)
    return np.asarray(vertices), time.process_time() - started


def register_open3d(pair: RegistrationPair, levels: int) -> tuple[ndarray, float]:
    """Give the vertices of Open3D's ARAP and CPU seconds.

    It knows hard handles only. In each round, a tenth of the vertices goes to its closest point, if the normals
    agree to 60 degrees.
    """
    import open3d as o3d

    rest, faces = _refined(pair, levels)
    tree = ClosestPoints(pair.scan_vertices, pair.scan_faces)
    scan_normals = vertex_normals(pair.scan_vertices, pair.scan_faces)
    rng = np.random.default_rng(0)
    rigid = o3d.geometry.TriangleMesh(o3d.utility.Vector3dVector(rest), o3d.utility.Vector3iVector(faces))
    vertices, started = rest, time.process_time()
    for _ in range(_OPEN3D_ROUNDS):
        found = tree.query(vertices, _MAX_DISTANCE_MM)
        corners = scan_normals[pair.scan_faces[np.maximum(found.face, 0)]]
        agree = ((corners * found.barycentric[:, :, None]).sum(1) * vertex_normals(vertices, faces)).sum(1) > 0.5
        handles = np.flatnonzero((found.face >= 0) & agree & (rng.random(len(rest)) < _HANDLE_SHARE))
        moved = rigid.deform_as_rigid_as_possible(
            o3d.utility.IntVector(handles.astype(np.int32)),
            o3d.utility.Vector3dVector(found.point[handles]),
            _OPEN3D_ITERATIONS,
        )
        vertices = np.asarray(moved.vertices)
    return vertices, time.process_time() - started


def _refined(pair: RegistrationPair, levels: int) -> tuple[ndarray, ndarray]:
    hierarchy = subdivision_hierarchy(pair.faces, len(pair.rest), levels)
    if not hierarchy:
        return pair.rest, pair.faces
    return subdivide_surface(hierarchy, pair.faces, pair.rest), hierarchy[-1].faces


def _measured(
    method: str, pair: RegistrationPair, register: Callable[[RegistrationPair, int], tuple[ndarray, float]], levels: int
) -> Measures:
    vertices, cpu_s = register(pair, levels)
    rest, faces = _refined(pair, levels)
    return _measures(method, pair, vertices, len(flipped_triangles(vertices, rest, faces)), cpu_s)


def _start(pair: RegistrationPair) -> Measures:
    return _measures("start", pair, _refined(pair, 2)[0], 0, 0.0)


def _measures(method: str, pair: RegistrationPair, vertices: ndarray, flipped: int, cpu_s: float) -> Measures:
    counted = np.flatnonzero(pair.measured[: len(pair.rest)])
    surface = ClosestPoints(pair.surface, pair.surface_faces).query(vertices[counted]).distance
    error = np.linalg.norm(vertices[counted] - pair.truth[counted], axis=1)
    return Measures(
        method,
        len(vertices),
        round(float(surface.mean()), 4),
        round(float(np.percentile(surface, 95)), 4),
        round(float(error.mean()), 4),
        round(float(np.median(error)), 4),
        flipped,
        round(cpu_s, 2),
    )


def _pairs(options: argparse.Namespace) -> dict[str, RegistrationPair]:
    if options.pairs:
        return {path.stem: read_pair(path) for path in options.pairs}
    from nphm_core.geometry.components import connected_components
    from nphm_core.template.read import read_head_model

    model = read_head_model(options.template)
    label = connected_components(model.faces, model.n_vertices)
    skin = label == np.bincount(label).argmax()
    faces = (np.cumsum(skin) - 1)[model.faces[skin[model.faces].all(1)]]
    template = 1000.0 * model.v_template[skin]
    return {f"synthetic {seed}": synthetic_pair(template, faces, rng=np.random.default_rng(seed)) for seed in (1, 2)}


def _warm_up() -> None:
    # Loads (or once, compiles) what numba caches: the commands of the project do so at installation.
    x, y = np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij")
    vertices = np.stack([x.ravel(), y.ravel(), np.sin(x.ravel())], axis=1)
    i = (np.arange(7)[:, None] * 8 + np.arange(7)).ravel()
    faces = np.concatenate([np.stack([i, i + 8, i + 9], 1), np.stack([i, i + 9, i + 1], 1)])
    register_ours(
        RegistrationPair(
            vertices, faces, vertices, faces, vertices, np.ones(64, bool), vertices, faces, np.ones(64), np.zeros(64)
        ),
        2,
    )


def _report(rows: dict[str, list[Measures]], command: list[str]) -> str:
    lines = [f"# Registration, {_hardware()}, commit {_commit()}", "", f"`{' '.join(command)}`", ""]
    lines += ["| pair | method | vertices | surface mean / p95 mm | correspondence mean / median mm | flips | CPU s |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, table in rows.items():
        lines += [
            f"| {name} | {r.method} | {r.n_vertices} | {r.surface_mean:.3f} / {r.surface_p95:.3f} | "
            f"{r.correspondence_mean:.3f} / {r.correspondence_median:.3f} | {r.flipped} | {r.cpu_s:.2f} |"
            for r in table
        ]
    return "\n".join([*lines, "", *_ratios(rows), ""])


def _ratios(rows: dict[str, list[Measures]]) -> list[str]:
    peers = sorted({row.method for table in rows.values() for row in table} - {"ours", "start"})
    out = []
    for peer in peers:
        both = [({r.method: r for r in table}[peer], {r.method: r for r in table}["ours"]) for table in rows.values()]
        factor = {
            key: float(np.exp(np.mean([np.log(max(getattr(a, key), 1e-9) / getattr(b, key)) for a, b in both])))
            for key in ("surface_mean", "correspondence_mean", "cpu_s")
        }
        out.append(
            f"{peer} against ours (geometric mean, {len(both)} pairs): surface error x {factor['surface_mean']:.2f}, "
            f"correspondence error x {factor['correspondence_mean']:.2f}, CPU time x {factor['cpu_s']:.1f}"
        )
    return out


def _hardware() -> str:
    path = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in path.read_text().splitlines() if "model name" in line]
        if path.exists()
        else []
    )
    return f"{names[0] if names else platform.processor()}, one core, Python {platform.python_version()}"


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "pairs", nargs="*", type=Path, help="NPZ files, see benchmarks.synthetic_pairs.RegistrationPair"
    )
    parser.add_argument("--template", default="embedded", help="head model for generated pairs, as template.source")
    parser.add_argument("--peer-levels", type=int, default=1, help="refinements of the template for the peers")
    parser.add_argument("--methods", nargs="*", help="only these")
    parser.add_argument("--out", type=Path, help="folder for the table and the numbers")
    return parser


if __name__ == "__main__":
    main()
