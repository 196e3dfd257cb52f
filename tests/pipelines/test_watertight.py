"""The watertight stage writes the closed scan in millimetres and a report on both surfaces."""

import argparse
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nphm_core.config import WatertightConfig
from nphm_core.errors import TopologyError
from nphm_core.io.files import write_json
from nphm_core.io.meshes import read_facts, read_mesh, write_mesh
from nphm_core.stages import STAGES
from pipelines.stage_command import Job
from pipelines.watertight import process

_spec = importlib.util.spec_from_file_location("io_shapes", Path(__file__).parents[1] / "io/shapes.py")
shapes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shapes)


@pytest.fixture
def job(tmp_path) -> Job:
    """Make a scan in metres whose triangles face inwards, and a registered mesh with one loop."""
    folder, out = tmp_path / "results/scans/a/b", tmp_path / "out"
    out.mkdir()
    bowl = shapes.open_sphere(24, radius=0.1)
    scan = type(bowl)(bowl.vertices, bowl.faces[:, ::-1])
    write_mesh(folder / "scan.ply", scan, {"space": "scan", "unit": "m"})
    write_json(folder / "landmarks3d.json", {"mm_per_scan_unit": 1000.0, "flip_faces": True})
    template = shapes.open_sphere(12, radius=0.1)
    registered = template.with_vertices(template.vertices * 1000)
    write_mesh(folder / "registered.ply", registered, {"space": "metric", "unit": "mm", "template_hash": "t"})
    model = SimpleNamespace(v_template=template.vertices, faces=template.faces)
    options = argparse.Namespace()
    job = Job("a/b", STAGES["watertight"], tmp_path / "results", out, WatertightConfig(), 0, None, options)
    # In place of the one that would be read from a folder.
    job.__dict__["template"] = SimpleNamespace(hash="t", model=model)
    return job


def test_the_scan_is_closed_in_millimetres(job):
    metrics = process(job)
    closed = read_mesh(job.out / "scan_closed.ply")
    facts = read_facts(job.out / "scan_closed.ply")
    scan = read_mesh(job.folder / "scan.ply")
    np.testing.assert_allclose(closed.vertices, scan.vertices * 1000, atol=1e-4)
    assert (facts["space"], facts["unit"], facts["method"]) == ("metric", "mm", "holes filled")
    assert facts["n_scan_faces"] == scan.n_faces
    assert facts["is_watertight"]
    np.testing.assert_array_equal(closed.faces[: scan.n_faces], scan.faces[:, ::-1])
    assert metrics["warnings"] == []
    assert metrics["scan"]["n_boundary_loops"] == metrics["registered"]["n_boundary_loops"] == 1
    report = json.loads((job.out / "watertight_report.json").read_text())
    assert report["scan_closed"]["n_fill_faces"] > 0
    assert sorted(path.name for path in job.out.iterdir()) == sorted(job.stage.artifacts)


def test_a_registered_mesh_that_lost_triangles_is_told(job):
    registered = read_mesh(job.folder / "registered.ply")
    holed = type(registered)(registered.vertices, registered.faces[40:])
    write_mesh(job.folder / "registered.ply", holed, {"space": "metric", "unit": "mm", "template_hash": "t"})
    assert "boundary loops, its template has 1" in process(job)["warnings"][0]


def test_a_mesh_of_another_template_is_refused(job):
    job.template.hash = "other"
    with pytest.raises(TopologyError, match="belongs to the template t"):
        process(job)
