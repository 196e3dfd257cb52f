"""The ingest command gives a verdict on each scan, and no bad scan disturbs the others."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nphm_core.errors import ScanFileError
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import read_npz
from nphm_core.io.layouts import read_nphm_mm_per_unit
from nphm_core.io.meshes import read_facts, read_mesh
from nphm_core.io.ply import write_ply

_spec = importlib.util.spec_from_file_location("io_shapes", Path(__file__).parents[1] / "io/shapes.py")
shapes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shapes)
ROOT = Path(__file__).parents[2]


def ingest(table: Path, results: Path, *scans: str) -> dict[str, dict]:
    command = [sys.executable, "-m", "pipelines.ingest", "--table", table, "--results", results, *scans]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return {scan: json.loads((results / "scans" / scan / "stages/ingest.json").read_text()) for scan in scans}


def test_each_scan_gets_its_verdict(tmp_path):
    good = shapes.open_sphere(24, radius=100.0)
    write_ply(tmp_path / "good.ply", good)
    write_ply(tmp_path / "turned.ply", Mesh(good.vertices, good.faces[:, ::-1]))
    data = (tmp_path / "good.ply").read_bytes()
    (tmp_path / "truncated.ply").write_bytes(data[: len(data) // 2])
    nan = good.vertices.copy()
    nan[:40] = np.nan
    write_ply(tmp_path / "nan.ply", good.with_vertices(nan))
    write_ply(tmp_path / "empty.ply", Mesh(np.empty((0, 3)), np.empty((0, 3), np.int64)))
    names = ("good", "turned", "truncated", "nan", "empty", "missing")
    rows = [f"{name}\te\t{'closed' if name == 'good' else ''}\t{name}.ply\tcm" for name in names]
    (tmp_path / "scans.tsv").write_text("\n".join(["subject\texpression\tneutral\tpath\tunit", *rows]))
    records = ingest(tmp_path / "scans.tsv", tmp_path / "results", *(f"{name}/e" for name in names))
    assert {scan: record["status"] for scan, record in records.items()} == {
        "good/e": "ok",
        "turned/e": "ok",
        "truncated/e": "failed",
        "nan/e": "failed",
        "empty/e": "failed",
        "missing/e": "failed",
    }
    assert "ends after" in records["truncated/e"]["reason"]
    assert "NaN" in records["nan/e"]["reason"]
    assert "does not exist" in records["missing/e"]["reason"]
    assert "turned" in records["turned/e"]["warnings"][0]
    assert all(record["error"] == "ScanFileError" for record in records.values() if record["status"] == "failed")
    row = records["good/e"]["metrics"]["row"]
    assert (row["unit"], row["mm_per_unit"], row["identity_scan"], row["canonical_scan"]) == ("cm", 10.0, "good/e", "")
    scan = tmp_path / "results/scans/good/e/scan.ply"
    np.testing.assert_allclose(read_mesh(scan).vertices, good.vertices, atol=1e-4)
    facts = read_facts(scan)
    assert (facts["space"], facts["unit"], facts["scan"]) == ("scan", "cm", "good/e")
    assert facts["statistics"]["n_boundary_loops"] == 1


def test_nphm_scans_bring_their_unit(tmp_path):
    folder = tmp_path / "DATA/017/001"
    folder.mkdir(parents=True)
    write_ply(folder / "scan.ply", shapes.open_sphere(24, radius=0.5))
    np.save(folder / "s.npy", np.array([1 / 248.0], np.float32))
    record = ingest(tmp_path, tmp_path / "results", "017/001")["017/001"]
    assert record["metrics"]["row"]["mm_per_unit"] == pytest.approx(248.0, rel=1e-6)
    (folder / "s.npy").unlink()
    assert read_nphm_mm_per_unit(folder / "scan.ply") == 250.0
    np.save(folder / "s.npy", np.eye(3))
    with pytest.raises(ScanFileError, match=r"expected one number near 0.004"):
        read_nphm_mm_per_unit(folder / "scan.ply")


def test_help_is_enough():
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.ingest", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--table" in done.stdout
    assert "SUBJECT/EXPRESSION" in done.stdout


def _masked(tmp_path: Path, mesh: Mesh, mask: np.ndarray) -> dict:
    write_ply(tmp_path / "scan.ply", mesh)
    np.savetxt(tmp_path / "mask.txt", mask)
    (tmp_path / "scans.tsv").write_text("subject\texpression\tpath\tmask\na\te\tscan.ply\tmask.txt\n")
    return ingest(tmp_path / "scans.tsv", tmp_path / "results", "a/e")["a/e"]


def test_a_mask_is_kept_with_the_scan(tmp_path):
    mesh = shapes.open_sphere(24, radius=100.0)
    mask = (mesh.vertices[:, 1] > 0).astype(float)
    record = _masked(tmp_path, mesh, mask)
    assert record["status"] == "ok"
    np.testing.assert_array_equal(read_npz(tmp_path / "results/scans/a/e/mask.npz")["keep"], mask)
    other = _masked(tmp_path, mesh, 1 - mask)
    # What follows depends on this digest: another mask makes it anew.
    assert other["artifacts"]["mask.npz"] != record["artifacts"]["mask.npz"]


def test_the_mask_of_a_cloud_follows_its_points(tmp_path):
    points = shapes.open_sphere(40, radius=100.0).vertices
    far = np.full((3, 3), 4000.0) + np.arange(9).reshape(3, 3)
    cloud = Mesh(np.concatenate([far, points]), np.empty((0, 3), np.int64))
    keep = np.concatenate([np.zeros(3), points[:, 1] > 0]).astype(float)
    record = _masked(tmp_path, cloud, keep)
    assert record["status"] == "ok", record
    scan = read_mesh(tmp_path / "results/scans/a/e/scan.ply")
    assert scan.n_vertices == len(points)
    mask = read_npz(tmp_path / "results/scans/a/e/mask.npz")["keep"]
    np.testing.assert_array_equal(mask, scan.vertices[:, 1] > 0)


def test_a_mask_that_does_not_fit_fails_and_names_the_scan(tmp_path):
    record = _masked(tmp_path, shapes.open_sphere(24, radius=100.0), np.ones(5))
    assert (record["status"], record["error"]) == ("failed", "ScanFileError")
    assert "shape (5,)" in record["reason"]
    assert "Scan a/e, mask" in record["reason"]
