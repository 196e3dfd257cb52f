"""Every reader of files that come from strangers, with small good files to start from.

A reader may give a result or raise an error that derives from NphmError; anything else is a finding: another exception,
a crash, more than `LIMIT_S` seconds, more than `LIMIT_MB` of memory beyond what was there, a process started, or a file
opened for writing.
"""

import io
import json
import pickle
import random
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

LIMIT_S = 10.0
LIMIT_MB = 4000

_NUMBERS = (b"0", b"-1", b"1", b"3", b"255", b"1e308", b"nan", b"-inf", b"1000000000000", b"2147483648", b"1" * 30)
_WORDS = (b"../../x", b"/etc/passwd", b"\x00", b"\xff\xfe", b"\t", b"\n", b'"', b"[" * 2000, b"None", b"true", b"//")


@dataclass(frozen=True)
class Target:
    """A reader and files that it reads."""

    name: str
    file: str
    """Name of the file that is changed; others that belong to it are made by `prepare`."""
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], Any]
    prepare: Callable[[Path], None] = field(default=lambda folder: None)


def mutated(seeds: list[bytes], rng: random.Random) -> bytes:
    """Change a good file in a few places: bits, lengths, numbers, words, lines, or its end."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(9)
        if kind == 0:
            del data[at:]
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at : at + rng.randrange(5)] = rng.randbytes(rng.randrange(5))
        elif kind == 3:
            data[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1)))
        elif kind == 4:
            data[at : at + 8] = struct.pack("<q", rng.choice((-1, 2**31, 2**40, 2**62)))
        elif kind == 5:
            data[:] = _number_replaced(bytes(data), rng)
        elif kind == 6:
            data[at:at] = rng.choice(_WORDS)
        elif kind == 7:
            lines = bytes(data).split(b"\n")
            rng.shuffle(lines)
            data[:] = b"\n".join(lines)
        else:
            end = min(len(data), at + rng.randrange(1, 400))
            data[at:at] = data[at:end] * rng.choice((1, 2, 50))
    return bytes(data)


def _number_replaced(data: bytes, rng: random.Random) -> bytes:
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if not found:
        return data
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(_NUMBERS) + data[match.end() :]


def _sphere() -> Any:
    import trimesh

    return trimesh.creation.icosphere(subdivisions=1)


def _exported(kind: str) -> list[bytes]:
    made = _sphere().export(file_type=kind)
    return [made.encode() if isinstance(made, str) else made]


def _ply_seeds() -> list[bytes]:
    mesh = _sphere()
    ascii_text = mesh.export(file_type="ply", encoding="ascii")
    mixed = (
        b"ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
        b"property uchar red\nproperty uchar green\nproperty uchar blue\nelement face 2\n"
        b"property list uchar int vertex_indices\nproperty list uchar float texcoord\nend_header\n"
        b"0 0 0 1 2 3\n1 0 0 1 2 3\n1 1 0 1 2 3\n0 1 0 1 2 3\n3 0 1 2 6 0 0 1 0 1 1\n4 0 1 2 3 8 0 0 1 0 1 1 0 1\n"
    )
    strips = (
        b"ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
        b"element tristrips 1\nproperty list int int vertex_indices\nend_header\n"
        b"0 0 0\n1 0 0\n1 1 0\n0 1 0\n5 0 1 2 -1 3\n"
    )
    return [mesh.export(file_type="ply"), ascii_text, mixed, strips]


def _obj_seeds() -> list[bytes]:
    textured = (
        b"mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nusemtl a\nf 1/1 2/2 3/3\nf -3/1 -2 3//1\n"
    )
    return [*_exported("obj"), textured, b"v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nvn 0 0 1\nvn 0 0 1\n"]


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _image_seeds() -> list[bytes]:
    from PIL import Image

    out = []
    for kind in ("PNG", "JPEG", "BMP", "TIFF"):
        stream = io.BytesIO()
        Image.new("RGB", (12, 9), "grey").save(stream, kind)
        out.append(stream.getvalue())
    return out


def _scan(path: Path) -> Any:
    from nphm_core.io.meshes import read_scan_file

    return read_scan_file(path)


def _scan_targets() -> list[Target]:
    points = np.random.default_rng(0).normal(size=(30, 6))
    text = "\n".join(" ".join(f"{x:.4f}" for x in row) for row in points).encode()
    return [
        Target("PLY", "scan.ply", _ply_seeds, _scan),
        Target("OBJ", "scan.obj", _obj_seeds, _scan),
        Target("material", "m.mtl", lambda: [b"newmtl a\nKd 1 0 0\nmap_Kd -s 1 1 1 t.png\n"], _beside_obj, _write_obj),
        Target("GLB", "scan.glb", partial(_exported, "glb"), _scan),
        Target("glTF", "scan.gltf", _gltf_seeds, _scan),
        Target("STL", "scan.stl", lambda: _exported("stl") + _exported("stl_ascii"), _scan),
        Target("OFF", "scan.off", partial(_exported, "off"), _scan),
        Target("points as text", "scan.xyz", lambda: [text, b"# x y z\n1,2,3\n4,5,6\n"], _scan),
        Target("points as NPY", "scan.npy", lambda: [_npy(points), _npy(points.astype("f4"))], _scan),
        Target("image", "t.png", _image_seeds, _image),
    ]


def _gltf_seeds() -> list[bytes]:
    glb = _exported("glb")[0]
    length = struct.unpack_from("<I", glb, 12)[0]
    document = json.loads(glb[20 : 20 + length])
    return [
        json.dumps(document).encode(),
        json.dumps(document | {"buffers": [{"byteLength": 9, "uri": "../x"}]}).encode(),
    ]


def _image(path: Path) -> Any:
    from nphm_core.io.images import read_image

    return read_image(path)


def _write_obj(folder: Path) -> None:
    (folder / "scan.obj").write_bytes(_obj_seeds()[1])


def _beside_obj(path: Path) -> Any:
    return _scan(path.with_name("scan.obj"))


def _table(path: Path) -> Any:
    from nphm_core.io.scan_table import read_scan_table, row_facts

    table = read_scan_table(path)
    for row in (*table.rows, *table.excluded):
        folder = Path("results/scans", row.scan_id)
        if len(folder.parts) != 4 or not set(row.scan_id) <= set(_ID_LETTERS):
            raise AssertionError(f"the id {row.scan_id!r} leads out of the results")
    return [row_facts(table, row.scan_id, "open") for row in table.rows]


_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/"


def _verdicts(path: Path) -> Any:
    from nphm_core.io.verdicts import read_verdicts

    return read_verdicts(path)


def _mask(path: Path) -> Any:
    from nphm_core.io.mask_file import read_mask_file

    return read_mask_file(path, 5)


def _landmarks(path: Path) -> Any:
    from nphm_core.io.landmark_file import read_landmark_file

    return read_landmark_file(path)


def _scale(path: Path) -> Any:
    from nphm_core.io.layouts import read_nphm_mm_per_unit

    return read_nphm_mm_per_unit(path.with_name("scan.ply"))


def _neutrals(path: Path) -> Any:
    from nphm_core.io.layouts import find_nphm_scans

    return find_nphm_scans(path.parent)


def _make_layout(folder: Path) -> None:
    (folder / "17" / "1").mkdir(parents=True, exist_ok=True)
    (folder / "17" / "1" / "scan.ply").write_bytes(b"ply")


def _config(path: Path) -> Any:
    import yaml

    from nphm_core.config import Config, read_section

    try:
        data = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        return None  # said by Snakemake, which reads the file
    return read_section(Config, data) if isinstance(data, dict) else None


_PICKED = (
    b"<!DOCTYPE PickedPoints>\n<PickedPoints>\n <DocumentData/>\n"
    b' <point name="nose" active="1" x="1.5" y="2" z="3"/>\n <point name="chin" active="0" x="1" y="2" z="3"/>\n'
    b"</PickedPoints>\n"
)


def _table_targets() -> list[Target]:
    table = (
        b"subject\texpression\tneutral\tpath\tunit\texclude\treason\tlandmarks\tmask\ttexture\ttexture_origin\n"
        b"S1\trest\tclosed\ta.ply\tmm\t\t\tl.json\tm.npy\tt.png\ttop\nS1\tsmile\t\tb.ply\t\tyes\tblurred\t\t\t\t\n"
    )
    config = b"scans: a.tsv\nseed: 3\narap: {stiffness_end: 0.2, iterations: [4, 4]}\nheld_out: [a]\n"
    return [
        Target("scan table", "scans.tsv", lambda: [table, b"\xef\xbb\xbf" + table], _table),
        Target("verdicts", "v.tsv", lambda: [b"scan\tverdict\tnote\tresult\nS1/rest\trejected\tbad\tabc\n"], _verdicts),
        Target("mask", "mask.npy", lambda: [_npy(np.ones(5)), _npy(np.ones(5, bool))], _mask),
        Target("mask as text", "mask.txt", lambda: [b"1\n0\n1\n1\n0\n"], _mask),
        Target(
            "landmarks JSON", "l.json", lambda: [b'{"nose": [1, 2, 3.5], "chin": null}', b"[[1, 2, 3]]"], _landmarks
        ),
        Target("landmarks text", "l.csv", lambda: [b"name,x,y,z\nnose,1,2,3\nchin 1 2 3\n"], _landmarks),
        Target("picked points", "l.pp", lambda: [_PICKED], _landmarks),
        Target("NPHM scale", "s.npy", lambda: [_npy(np.array([0.004])), _npy(np.float32(0.004))], _scale),
        Target("NPHM neutrals", "neutrals_open.json", lambda: [b'{"17": 1, "18": -1}'], _neutrals, _make_layout),
        Target("config", "config.yaml", lambda: [config], _config),
    ]


def all_targets() -> list[Target]:
    """Give all readers."""
    from benchmarks.fuzz_model_targets import model_targets

    return [*_scan_targets(), *_table_targets(), *model_targets(_npy, _npz)]


def pickled(value: Any, protocol: int) -> bytes:
    """Give a pickle, to be changed and read again without running it."""
    return pickle.dumps(value, protocol=protocol)
