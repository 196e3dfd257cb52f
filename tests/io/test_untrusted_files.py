"""Damaged and hostile files: every reader gives a result or an error of ours, runs nothing and stays small.

`python -m benchmarks.fuzz` does the same for as long as one likes, guided by coverage.
"""

import contextlib
import io
import json
import os
import pickle
import random
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import sparse

from benchmarks.fuzz_model_targets import flame
from benchmarks.fuzz_targets import all_targets, mutated
from nphm_core.errors import CheckpointError, DamagedFileError, NphmError, ScanFileError, ScanTableError, TemplateError
from nphm_core.io.array_files import ArrayFileError, read_npy, read_npz_arrays
from nphm_core.io.files import read_json
from nphm_core.io.images import read_image
from nphm_core.io.layouts import find_nphm_scans
from nphm_core.io.mask_file import read_mask_file
from nphm_core.io.meshes import read_scan_file
from nphm_core.io.scan_table import read_scan_table
from nphm_core.io.verdicts import read_verdicts
from nphm_core.models.released import read_released
from nphm_core.template.read import read_head_model
from nphm_core.template.safe_pickle import read_pickle_arrays

TARGETS = {target.name: target for target in all_targets()}
ROOT = Path(__file__).parents[2]
XYZ = "property float x\nproperty float y\nproperty float z"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32), noise=st.binary(max_size=200))
def test_a_reader_gives_a_result_or_an_error_of_ours(tmp_path, name, seed, noise):
    target, rng = TARGETS[name], random.Random(seed)
    target.prepare(tmp_path)
    seeds = target.seeds()
    for data in (mutated(seeds, rng), mutated(seeds, rng), noise):
        (tmp_path / target.file).write_bytes(data)
        with contextlib.suppress(NphmError):
            target.read(tmp_path / target.file)


@pytest.mark.slow
def test_the_fuzzer_finds_nothing(tmp_path):
    command = [sys.executable, "-m", "benchmarks.fuzz", "--engine", "mutation", "--seconds", "2", "--out", tmp_path]
    command += ["--target", "PLY", "OBJ", "GLB", "FLAME pickle", "released weights"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def npy_claiming(shape: tuple[int, ...]) -> bytes:
    """An NPY file of 80 bytes whose header says what it likes."""
    header = repr({"descr": "<f8", "fortran_order": False, "shape": shape}).encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(80)


@pytest.mark.parametrize("shape", [(10**12, 3), (2**62, 2**62), (-1, 3), (10**30,)])
def test_an_array_that_claims_more_than_its_file_has_is_refused(tmp_path, shape):
    (tmp_path / "a.npy").write_bytes(npy_claiming(shape))
    with pytest.raises(ArrayFileError):
        read_npy(tmp_path / "a.npy")
    with pytest.raises(ScanFileError, match="cannot be read"):
        read_scan_file(tmp_path / "a.npy")
    with pytest.raises(ScanFileError, match="cannot be read"):
        read_mask_file(tmp_path / "a.npy", 5)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", npy_claiming(shape))
    with pytest.raises(ArrayFileError):
        read_npz_arrays(tmp_path / "a.npz")


def test_arrays_of_objects_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ArrayFileError, match="no plain numbers"):
        read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize("array", [np.float32(2.5), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.zeros((0, 3))])
def test_arrays_come_back_as_numpy_wrote_them(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    back = read_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(back, array)
    assert (back.dtype, back.shape) == (np.asarray(array).dtype, np.shape(array))
    assert back.flags.writeable


def test_archives_with_a_password_or_an_unknown_packing_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(3))
    data = (tmp_path / "a.npz").read_bytes()
    at = data.index(b"PK\x01\x02")
    for place, value in ((at + 8, 1), (at + 10, 99)):
        (tmp_path / "b.npz").write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
        with pytest.raises(ArrayFileError):
            read_npz_arrays(tmp_path / "b.npz")


@pytest.mark.parametrize(
    "header",
    [
        f"element vertex 1000000000000\n{XYZ}",
        f"element vertex 1\n{XYZ}\nelement face 1000000000000\nproperty list uint int vertex_indices",
        "element vertex 3\nproperty list uint float x\nproperty float y\nproperty float z",
    ],
)
@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_a_ply_that_claims_a_terabyte_is_refused(tmp_path, header, form):
    body = b"1 2 3\n4000000000 1\n" if form == "ascii" else b"\xff\xff\xff\x7f" * 6
    (tmp_path / "s.ply").write_bytes(f"ply\nformat {form} 1.0\n{header}\nend_header\n".encode() + body)
    with pytest.raises(ScanFileError):
        read_scan_file(tmp_path / "s.ply")


@pytest.mark.parametrize(
    ("header", "twice"),
    [
        (f"element vertex 3\n{XYZ}\nproperty float y", "y"),
        (
            f"element vertex 3\n{XYZ}\nelement face 1\n" + "property list uchar int vertex_indices\n" * 2,
            "vertex_indices",
        ),
        (f"element vertex 3\n{XYZ}\nelement vertex 3\n{XYZ}", "vertex"),
    ],
)
def test_a_ply_that_declares_a_name_twice_is_refused(tmp_path, header, twice):
    (tmp_path / "s.ply").write_text(f"ply\nformat ascii 1.0\n{header}\nend_header\n" + "0 1 2\n" * 50)
    with pytest.raises(ScanFileError, match=f"'{twice}' twice"):
        read_scan_file(tmp_path / "s.ply")


def test_triangle_strips_without_a_list_are_refused(tmp_path):
    text = f"ply\nformat ascii 1.0\nelement vertex 1\n{XYZ}\nelement tristrips 1\nend_header\n0 0 0\n"
    (tmp_path / "s.ply").write_text(text)
    with pytest.raises(ScanFileError, match="hold no list"):
        read_scan_file(tmp_path / "s.ply")


def test_an_off_with_an_endless_index_is_refused(tmp_path):
    (tmp_path / "s.off").write_text(f"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 {'9' * 40}\n")
    with pytest.raises(ScanFileError, match="cannot be read"):
        read_scan_file(tmp_path / "s.off")


def test_an_image_that_claims_a_terabyte_is_refused(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "BMP")
    data = bytearray(stream.getvalue())
    data[18:26] = (1_000_000).to_bytes(4, "little") * 2
    (tmp_path / "t.bmp").write_bytes(bytes(data))
    with pytest.raises(ScanFileError, match="an image of a scan cannot be read"):
        read_image(tmp_path / "t.bmp")


def peak_bytes(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        with contextlib.suppress(NphmError):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_chunk_that_claims_two_gigabytes_allocates_nothing(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    at = data.index(b"IDAT")
    data[at - 4 : at] = (0x7FFFFFFF).to_bytes(4, "big")
    (tmp_path / "t.png").write_bytes(bytes(data))
    assert peak_bytes(lambda: read_image(tmp_path / "t.png")) < 1 << 26


def test_a_text_in_a_checkpoint_that_claims_four_gigabytes_allocates_nothing(tmp_path):
    (tmp_path / "w.tar").write_bytes(b"X" + (0xFFFFFF5D).to_bytes(4, "little") + b"text")
    assert peak_bytes(lambda: read_released(tmp_path / "w.tar", None, torch.zeros(39, 3))) < 1 << 26


def test_an_image_with_an_endless_name_is_left_out(tmp_path):
    (tmp_path / "m.mtl").write_text(f"newmtl a\nmap_Kd {'x' * 5000}.png\n")
    lines = ["mtllib m.mtl", "v 0 0 0", "v 1 0 0", "v 0 1 0", "vt 0 0", "vt 1 0", "vt 0 1", "usemtl a", "f 1/1 2/2 3/3"]
    (tmp_path / "s.obj").write_text("\n".join(lines) + "\n")
    assert any("is missing" in note for note in read_scan_file(tmp_path / "s.obj").notes)


@pytest.mark.parametrize("uri", ["/dev/zero", "../secret.bin", "%2e%2e/secret.bin", "file:///dev/zero", "http://a/b"])
def test_a_gltf_that_reads_elsewhere_is_refused(tmp_path, uri):
    document = {"asset": {"version": "2.0"}, "buffers": [{"byteLength": 9, "uri": uri}], "nodes": [3], "scenes": []}
    (tmp_path / "s.gltf").write_text(json.dumps(document))
    with pytest.raises(ScanFileError, match="from outside its folder"):
        read_scan_file(tmp_path / "s.gltf")


def test_a_glb_whose_positions_are_pairs_is_refused(tmp_path):
    data = TARGETS["GLB"].seeds()[0]
    assert b'"VEC3"' in data
    (tmp_path / "s.glb").write_bytes(data.replace(b'"VEC3"', b'"VEC2"'))
    with pytest.raises(ScanFileError):
        read_scan_file(tmp_path / "s.glb")


def test_whatever_a_damaged_pickle_raises_is_told_as_a_damaged_checkpoint(tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise IndexError("pop from empty list")

    monkeypatch.setattr("torch.load", fail)
    (tmp_path / "identity.tar").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pop from empty list"):
        TARGETS["released weights"].read(tmp_path / "identity.tar")


@pytest.mark.parametrize("name", ["scan.gltf", "neutrals_open.json", "x.json"])
def test_json_of_endless_depth_is_refused(tmp_path, name):
    (tmp_path / name).write_text("[" * 100_000)
    (tmp_path / "17" / "1").mkdir(parents=True)
    (tmp_path / "17" / "1" / "scan.ply").touch()
    readers = {"scan.gltf": read_scan_file, "neutrals_open.json": lambda path: find_nphm_scans(path.parent)}
    with pytest.raises((ScanFileError, ScanTableError, DamagedFileError)):
        readers.get(name, read_json)(tmp_path / name)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/b", "..", "a\x00b", "a b", "é", ""])
def test_names_that_lead_out_of_the_results_are_refused(tmp_path, name):
    for row in (f"{name}\trest\ta.ply", f"a\t{name}\ta.ply"):
        (tmp_path / "scans.tsv").write_text("subject\texpression\tpath\n" + row + "\n")
        with pytest.raises(ScanTableError):
            read_scan_table(tmp_path / "scans.tsv")


def test_a_table_with_an_endless_cell_is_refused(tmp_path):
    (tmp_path / "scans.tsv").write_text(f"subject\texpression\tpath\na\tb\t{'x' * 200_000}\n")
    with pytest.raises(ScanTableError, match="no TSV"):
        read_scan_table(tmp_path / "scans.tsv")
    (tmp_path / "v.tsv").write_text(f"scan\tverdict\na/b\t{'x' * 200_000}\n")
    with pytest.raises(ScanTableError, match="no TSV"):
        read_verdicts(tmp_path / "v.tsv")


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(
    key=st.sampled_from(sorted(flame())),
    shape=st.lists(st.integers(0, 13), max_size=4),
    kind=st.sampled_from(["f8", "i8", "U3", "?", "c16"]),
    as_npz=st.booleans(),
)
def test_a_head_model_with_an_array_of_another_shape_or_kind_is_refused(key, shape, kind, as_npz):
    data = flame() | {key: np.ones(shape, kind)}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        if as_npz:
            with path.open("wb") as stream:
                np.savez(stream, **data)
        else:
            path.write_bytes(pickle.dumps(data))
        with contextlib.suppress(TemplateError):
            read_head_model(str(path))


def test_a_sparse_matrix_that_claims_a_terabyte_is_left_out(tmp_path):
    matrix = sparse.csc_matrix(np.eye(3))
    matrix._shape = (10**6, 10**6)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"J_regressor": matrix, "a": 1}, protocol=2))
    assert read_pickle_arrays(tmp_path / "m.pkl") == {"a": 1}


@pytest.mark.parametrize("key", ["n_hidden", "n_hidden_anchors", "n_layers", "n_global", "n_local"])
def test_a_checkpoint_that_claims_larger_networks_than_it_has_weights_is_refused(tmp_path, key):
    target = TARGETS["checkpoint config"]
    target.prepare(tmp_path)
    config = json.loads(target.seeds()[0])
    target.read(tmp_path / target.file)
    config["identity"][key] = 10**9
    (tmp_path / target.file).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="too few"):
        target.read(tmp_path / target.file)


def test_devices_are_no_files():
    for read in (lambda path: read_mask_file(path, 5), read_scan_file):
        with pytest.raises(ScanFileError):
            read(Path("/dev/zero"))


class RunsCode:
    """What an attacker puts into a pickle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.system, (f"touch {self.folder}/was-here",)


@pytest.mark.parametrize("protocol", range(5))
def test_no_pickle_runs_anything(tmp_path, protocol):
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"v_template": RunsCode(tmp_path)}, protocol=protocol))
    with pytest.raises(TemplateError, match="nothing of it was run"):
        read_pickle_arrays(tmp_path / "m.pkl")
    assert not (tmp_path / "was-here").exists()
