"""Readers that this project did not write, or that follow a published description alone."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

THREE = "0.187.0"
_SCRIPT = """
import { readFileSync } from 'node:fs';
globalThis.self = globalThis;
const { GLTFLoader } = await import('three/examples/jsm/loaders/GLTFLoader.js');
const file = readFileSync(process.argv[2]);
const bytes = file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
const scene = await new GLTFLoader().parseAsync(bytes, '');
let mesh;
scene.scene.traverse(o => { if (o.isMesh) mesh = o; });
const of = a => Array.from(a.array);
console.log(JSON.stringify({
  name: mesh.name, vertices: of(mesh.geometry.attributes.position), faces: of(mesh.geometry.index),
  names: mesh.morphTargetDictionary, relative: mesh.geometry.morphTargetsRelative,
  targets: (mesh.geometry.morphAttributes.position || []).map(of) }));
"""


def three_js(path: Path, folder: Path):
    """Read a GLB by three.js' GLTFLoader in Node; skips where Node or the package cannot be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no Node.js with npm")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "node_modules/three").is_dir():
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), f"three@{THREE}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot install three: {done.stderr[-200:]}")
    script = folder / "read.mjs"
    script.write_text(_SCRIPT)
    done = subprocess.run(["node", script, path], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    order = sorted(found["names"], key=found["names"].get)
    targets = {name: np.reshape(found["targets"][found["names"][name]], (-1, 3)) for name in order}
    assert found["relative"]
    return np.reshape(found["vertices"], (-1, 3)), np.reshape(found["faces"], (-1, 3)), targets


_BLENDER_SCRIPT = """
import json, sys
import bpy
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=sys.argv[1], merge_vertices=False)
(head,) = [o.data for o in bpy.data.objects if o.type == "MESH"]
keys = head.shape_keys.key_blocks
rows = {key.name: [list(point.co) for point in key.data] for key in keys}
faces = [list(face.vertices) for face in head.polygons]
print("HEAD" + json.dumps({"faces": faces, "keys": rows, "order": [key.name for key in keys]}))
"""


def blender(path: Path, folder: Path):
    """Read a GLB by Blender's importer; skips where NPHM_BLENDER names no Python that has the package bpy."""
    python = os.environ.get("NPHM_BLENDER")
    if python is None:
        pytest.skip("no Blender: name a Python with the package bpy in NPHM_BLENDER")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "blender.py").write_text(_BLENDER_SCRIPT)
    # Its own packages must not meet ours.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [python, folder / "blender.py", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=clean)
    lines = [line for line in done.stdout.splitlines() if line.startswith("HEAD")]
    assert lines, done.stdout + done.stderr
    found = json.loads(lines[0][4:])
    # Blender is z up: its importer turns (x, y, z) into (x, -z, y).
    keys = {name: np.array(found["keys"][name])[:, [0, 2, 1]] * [1, 1, -1] for name in found["order"]}
    vertices = keys.pop("Basis")
    return vertices, np.array(found["faces"]), {name: rows - vertices for name, rows in keys.items()}


def gltflib(path: Path):
    """Read a GLB by pygltflib: vertices, faces, targets by name."""
    import pygltflib

    kinds = {pygltflib.FLOAT: "<f4", pygltflib.UNSIGNED_INT: "<u4"}
    file = pygltflib.GLTF2().load(str(path))
    blob = file.binary_blob()

    def values(number):
        accessor = file.accessors[number]
        view = file.bufferViews[accessor.bufferView]
        width = 3 if accessor.type == "VEC3" else 1
        flat = np.frombuffer(blob, kinds[accessor.componentType], accessor.count * width, view.byteOffset)
        return flat.reshape(-1, 3)

    mesh = file.meshes[0]
    primitive = mesh.primitives[0]
    names = (mesh.extras or {}).get("targetNames", [])
    assert len(mesh.weights or []) == len(names)
    targets = {
        name: values(target["POSITION"] if isinstance(target, dict) else target.POSITION)
        for name, target in zip(names, primitive.targets or [], strict=True)
    }
    return values(primitive.attributes.POSITION), values(primitive.indices), targets


def open3d_mesh(path: Path):
    open3d = pytest.importorskip("open3d", reason="the extra `benchmarks` is not installed")
    mesh = open3d.io.read_triangle_mesh(str(path))
    return np.asarray(mesh.vertices), np.asarray(mesh.triangles)


def meshio_mesh(path: Path):
    import meshio

    mesh = meshio.read(path)
    return mesh.points, mesh.cells_dict["triangle"]


class NphmFolder:
    """The NPHM layout as METHOD 1.4 and 1.5 of the project's notes describe it, by numpy and meshio alone.

    Released files are in units of 250 mm; raw mm follow by x_raw = (x - t) @ R / s with row vectors.
    """

    def __init__(self, root: Path):
        self.root = root

    def neutral(self, subject: int, kind: str) -> int:
        return json.loads((self.root / f"neutrals_{kind}.json").read_text())[str(subject)]

    def mesh(self, subject: int, expression: int, kind: str):
        points, faces = meshio_mesh(self.root / "DATA" / f"{subject:03d}" / f"{expression:03d}" / f"{kind}.ply")
        return np.asarray(points, float), faces

    def raw_mm(self, subject: int, expression: int, points):
        folder = self.root / "DATA" / f"{subject:03d}" / f"{expression:03d}"
        s, R, t = (np.load(folder / f"{name}.npy") for name in "sRt")
        return (points - t) @ R / s

    def anchors(self, subject: int, expression: int):
        return self.mesh(subject, expression, "registration")[0][np.load(self.root / "assets/lm_inds_39.npy")]

    def identity_chunk(self, subject: int, expression: int, k: int, kind: str):
        return np.load(self.root / f"SUPERVISION_IDENTITY/{subject:03d}/{expression}_{k}_{kind}.npy")

    def pair_chunk(self, subject: int, expression: int, k: int):
        return np.load(self.root / f"SUPERVISION_DEFORMATION_OPEN/{subject:03d}/{expression:03d}/corresp_{k}.npy")


def flame_head(model, params):
    """Pose a head by an npz of a FLAME model and one of its parameters: Li et al. 2017, eq. 1-5, in plain numpy."""

    def matrix(rotvec):
        angle = np.linalg.norm(rotvec)
        x, y, z = rotvec / max(angle, 1e-300)
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross

    shape = np.concatenate([params["shape"], params["expression"]])
    rest = model["v_template"] + model["shapedirs"] @ shape
    joints = model["J_regressor"] @ rest
    eyes = params["eyes"]
    local = [matrix(v) for v in (params["root"], params["neck"], params["jaw"], eyes[:3], eyes[3:])]
    rest = rest + model["posedirs"] @ np.concatenate([(r - np.eye(3)).ravel() for r in local[1:]])
    world = []
    for joint, parent in enumerate(model["kintree_table"][0].astype(int)):
        own = np.eye(4)
        own[:3, :3] = local[joint]
        own[:3, 3] = joints[joint] - (joints[parent] if parent >= 0 else 0)
        world.append(own if parent < 0 else world[parent] @ own)
    moved = np.zeros_like(rest)
    for joint, T in enumerate(world):
        moved += model["weights"][:, joint : joint + 1] * ((rest - joints[joint]) @ T[:3, :3].T + T[:3, 3])
    return params["scale"] * moved @ matrix(params["rotation"]).T + params["translation"]
