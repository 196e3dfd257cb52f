"""The repair runs in its own process, on the scan's own vertices, and its failure is no one else's."""

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nphm_core.config import WatertightConfig
from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.quality import measure_quality
from nphm_core.io.ply import read_ply, write_ply
from nphm_core.registration.watertight import check_surface
from pipelines import watertight
from pipelines.repair_mesh import TROUBLE_EXIT

_spec = importlib.util.spec_from_file_location("io_shapes", Path(__file__).parents[1] / "io/shapes.py")
shapes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shapes)
ROOT = Path(__file__).parents[2]
BOWL = shapes.open_sphere(24, radius=100.0)


def close(mesh: Mesh, folder: Path, **settings):
    check = check_surface(mesh.vertices, mesh.faces)
    return watertight._closed_scan(mesh, check, WatertightConfig(**settings), folder)


def test_a_bowl_is_closed_in_another_process(tmp_path):
    closed, trouble = close(BOWL, tmp_path)
    assert trouble == []
    assert closed.method == "holes filled"
    assert closed.n_scan_faces == BOWL.n_faces
    np.testing.assert_array_equal(closed.vertices, BOWL.vertices)
    assert measure_quality(closed.vertices, closed.faces).is_watertight
    assert list(tmp_path.iterdir()) == []


def test_a_closed_scan_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(watertight.subprocess, "run", lambda *a, **k: pytest.fail("no repair is needed"))
    closed, trouble = close(shapes.sphere(24, radius=100.0), tmp_path)
    assert (closed.method, trouble) == ("closed", [])
    assert closed.sign_error == 0.0


def test_non_manifold_rims_are_closed_too(tmp_path):
    # Two holes that meet in one vertex of the rim.
    faces = BOWL.faces
    rim_vertex = faces[np.argmin(BOWL.vertices[faces].mean(axis=1)[:, 1])][0]
    at_rim = np.flatnonzero((faces == rim_vertex).any(axis=1))
    holed = Mesh(BOWL.vertices, np.delete(faces, at_rim[len(at_rim) // 2], axis=0))
    closed, trouble = close(holed, tmp_path)
    assert trouble == []
    assert measure_quality(closed.vertices, closed.faces).n_boundary_edges == 0


def test_a_cloud_gets_a_surface(tmp_path):
    points = shapes.sphere(40, radius=100.0).vertices
    points = points[points[:, 1] > -40]
    closed, trouble = close(Mesh(points, np.empty((0, 3), np.int64), points / 100), tmp_path, poisson_depth=6)
    assert trouble == []
    assert closed.method == "poisson"
    assert 0 < closed.n_scan_faces < len(closed.faces)
    measured = closed.vertices[closed.faces[: closed.n_scan_faces]].reshape(-1, 3)
    assert np.abs(np.linalg.norm(measured, axis=1) - 100).max() < 5.0


def test_a_repair_that_takes_too_long_or_fails_leaves_the_scan_open(tmp_path, monkeypatch):
    closed, trouble = close(BOWL, tmp_path, repair_timeout_s=1e-3)
    assert closed.method == "open"
    assert "took more than 0.001 CPU seconds" in trouble[0]
    failed = subprocess.CompletedProcess([], -11, "", "Segmentation fault")
    monkeypatch.setattr(watertight.subprocess, "run", lambda *a, **k: failed)
    closed, trouble = close(BOWL, tmp_path)
    assert closed.method == "open"
    assert "code -11: Segmentation fault" in trouble[0]


@pytest.mark.parametrize("code", [-signal.SIGKILL, TROUBLE_EXIT])
def test_a_repair_that_the_machine_stopped_says_nothing_of_the_scan(tmp_path, monkeypatch, code):
    stopped = subprocess.CompletedProcess([], code, "", "OSError: No space left on device")
    monkeypatch.setattr(watertight.subprocess, "run", lambda *a, **k: stopped)
    with pytest.raises(OSError, match="No space left"):
        close(BOWL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_lacks(tmp_path):
    write_ply(tmp_path / "cloud.ply", Mesh(BOWL.vertices, np.empty((0, 3), np.int64)))
    command = [sys.executable, "-m", "pipelines.repair_mesh", tmp_path / "cloud.ply", tmp_path / "out.ply"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no normals" in done.stderr


def test_exact_files_keep_every_bit(tmp_path):
    vertices = BOWL.vertices + np.pi * 1e3
    write_ply(tmp_path / "m.ply", Mesh(vertices, BOWL.faces), exact=True)
    np.testing.assert_array_equal(read_ply(tmp_path / "m.ply").mesh.vertices, vertices)
