"""The evaluate stage on a ball with a nose, registered by construction."""

import argparse
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nphm_core.config import EvaluateConfig
from nphm_core.errors import TopologyError
from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.subdivision import loop_subdivision, subdivision_hierarchy
from nphm_core.io.files import write_json, write_npz
from nphm_core.io.meshes import write_mesh
from nphm_core.records import write_record
from nphm_core.spaces import Similarity
from nphm_core.stages import STAGES
from nphm_core.template.model import HeadModel
from nphm_core.template.template import LandmarkEmbedding, Template, bare_template, write_template
from pipelines.evaluate import process
from pipelines.stage_command import Job, run_stage

SCAN = "s01/neutral"


def _template() -> Template:
    vertices = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    for _ in range(4):
        step = loop_subdivision(faces, len(vertices), scheme="midpoint")
        vertices, faces = step.matrix @ vertices, step.faces
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    n = len(vertices)
    model = HeadModel(
        v_template=vertices * [0.075, 0.11, 0.09],
        faces=faces,
        shapedirs_identity=np.zeros((n, 3, 1), np.float32),
        shapedirs_expression=np.zeros((n, 3, 1), np.float32),
        weights=np.ones((n, 1)),
        parents=(-1,),
        joint_names=("root",),
        joints=np.zeros((1, 3)),
        joints_identity=np.zeros((1, 3, 1)),
        name="ball",
    )
    bare = bare_template(model)
    regions = dict(bare.regions)
    regions["face"] = (vertices[:, 2] > 0.2) & (np.abs(vertices[:, 1]) < 0.8)
    front = np.flatnonzero(vertices[faces].mean(1)[:, 2] > 0.7)[::9]
    ones = np.ones(len(front))
    landmarks = LandmarkEmbedding(np.arange(len(front)), front, np.full((len(front), 3), 1 / 3), ones, ones)
    return Template(model, landmarks, regions, np.arange(n), bare.anchors, bare.hash)


@pytest.fixture
def run(tmp_path):
    """Results of one scan in metres, registered with a given offset in mm, and the function that evaluates it."""
    template = _template()
    write_template(tmp_path / "template", template)
    folder = tmp_path / "results/scans" / SCAN
    fine = subdivision_hierarchy(template.faces, template.n_vertices, 1)[-1]
    vertices = 1000 * (fine.matrix @ template.model.v_template)
    for name in STAGES["evaluate"].needs:
        write_record(tmp_path / "results", SCAN, name, {"status": "ok", "reason": "", "warnings": [], "metrics": {}})
    write_mesh(folder / "scan.ply", Mesh(vertices / 1000, fine.faces), {"space": "scan", "unit": "m"})
    facts = {"space": "metric", "unit": "mm", "levels": 1, "region": "head"}
    coarse = 1000 * template.model.v_template
    write_mesh(folder / "flame.ply", Mesh(1.01 * coarse, template.faces), facts)
    marks = template.landmarks.points(vertices, template.faces)
    write_json(
        folder / "landmarks3d.json",
        {
            "index": template.landmarks.index,
            "points_mm": marks,
            "weight": np.ones(len(marks)),
            "mm_per_scan_unit": 1000.0,
            "T_head_metric": Similarity.identity().to_json(),
        },
    )

    def evaluate(offset_mm=0.0, **settings):
        length = np.linalg.norm(vertices, axis=1, keepdims=True)
        write_mesh(folder / "registered.ply", Mesh(vertices * (1 + offset_mm / length), fine.faces), facts)
        write_npz(folder / "registered_weights.npz", {"weight": np.ones(len(vertices))})
        options = argparse.Namespace(results=str(tmp_path / "results"), seed=0, template=str(tmp_path / "template"))
        section = EvaluateConfig(picture_pixels=128, **settings)
        record = run_stage(STAGES["evaluate"], process, SCAN, section, options)
        metrics = json.loads((folder / "metrics.json").read_text())
        return record, metrics

    return SimpleNamespace(evaluate=evaluate, results=tmp_path / "results", folder=folder)


def test_a_good_registration_is_ok_and_has_a_picture(run):
    record, metrics = run.evaluate()
    assert record["status"] == "ok"
    assert record["metrics"]["verdict"] == metrics["verdict"] == "ok"
    assert metrics["median_mm"] < 0.001
    assert metrics["landmark_mm"] == pytest.approx(0, abs=1e-3)
    with Image.open(run.folder / "quality.png") as picture:
        assert picture.width > 5 * 100


def test_an_offset_is_measured_and_suspicious(run):
    record, metrics = run.evaluate(offset_mm=0.4)
    assert metrics["median_mm"] == pytest.approx(0.4, abs=0.02)
    assert record["metrics"]["verdict"] == "suspicious"
    assert "evaluate.max_median_mm" in record["metrics"]["reasons"][0]


def test_the_limits_are_the_settings(run):
    assert run.evaluate(offset_mm=0.4, max_median_mm=0.6)[0]["metrics"]["verdict"] == "ok"
    assert run.evaluate(offset_mm=0.4, failed_median_mm=0.3)[0]["metrics"]["verdict"] == "failed"


def test_the_same_inputs_give_the_same_bytes(run):
    first = run.evaluate()[0]["artifacts"]
    run.folder.joinpath("metrics.json").unlink()
    assert run.evaluate()[0]["artifacts"] == first


def test_a_scan_that_failed_earlier_is_a_verdict_with_a_picture(run):
    write_record(run.results, SCAN, "render", {"status": "failed", "reason": "no face was found", "warnings": []})
    for name in STAGES["evaluate"].needs[2:]:
        blocked = {"status": "blocked", "reason": "the stage render has no result", "blocked_by": "render"}
        write_record(run.results, SCAN, name, blocked)
    Image.new("RGB", (40, 60), "grey").save(run.folder / "frontal.png")
    record, metrics = run.evaluate()
    assert record["status"] == "ok"
    assert record["metrics"]["verdict"] == metrics["verdict"] == "failed"
    assert metrics["stage"] == "render"
    assert metrics["reasons"] == ["no face was found"]
    assert (run.folder / "quality.png").is_file()


def test_a_registered_mesh_of_another_topology_is_refused(run):
    run.evaluate()
    registered = run.folder / "registered.json"
    facts = json.loads(registered.read_text())
    registered.write_text(json.dumps(facts | {"levels": 2}))
    template = run.results.parent / "template"
    job = Job(SCAN, STAGES["evaluate"], run.results, run.folder, EvaluateConfig(), 0, template, argparse.Namespace())
    with pytest.raises(TopologyError, match="subdivided template"):
        process(job)
