"""The two sampling commands on a sphere in place of a head: they read what earlier stages wrote and write samples."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from nphm_core.config import SampleDeltaConfig, SampleSdfConfig
from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.subdivision import subdivided_faces, subdivision_hierarchy
from nphm_core.io.files import write_npz
from nphm_core.io.meshes import write_mesh
from nphm_core.records import write_record
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, Similarity
from nphm_core.stages import STAGES
from nphm_core.supervision.sample_delta import read_delta_pairs
from nphm_core.supervision.sample_file import SdfSampleReader
from nphm_core.template.model import HeadModel
from nphm_core.template.template import Template, bare_template, write_template
from pipelines import sample_delta, sample_sdf
from pipelines.stage_command import run_stage

METRIC = {"space": "metric", "unit": "mm"}


def ball(levels: int) -> tuple[np.ndarray, np.ndarray]:
    vertices = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    steps = subdivision_hierarchy(faces, 6, levels, scheme="midpoint")
    for step in steps:
        vertices = step.matrix @ vertices
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    return 0.1 * vertices, subdivided_faces(steps, faces)[0]


def ball_template() -> Template:
    vertices, faces = ball(3)
    n = len(vertices)
    model = HeadModel(
        v_template=vertices,
        faces=faces,
        shapedirs_identity=np.zeros((n, 3, 1)),
        shapedirs_expression=np.zeros((n, 3, 1)),
        weights=np.ones((n, 1)),
        parents=(-1,),
        joint_names=("root",),
        joints=np.zeros((1, 3)),
        joints_identity=np.zeros((1, 3, 1)),
    )
    template = bare_template(model)
    template.regions["face"][:] = (vertices[:, 2] > 0.05) & (vertices[:, 1] > -0.04)
    template.regions["neck"][:] = vertices[:, 1] < -0.04
    return template


@pytest.fixture
def results(tmp_path) -> Path:
    """Folder with what flame_fit, arap and watertight would have written for two scans."""
    template = ball_template()
    write_template(tmp_path / "template", template)
    for scan, stretch, shift in (("s1/open", 1.0, 0.0), ("s1/smile", 1.1, 40.0)):
        folder = tmp_path / "scans" / scan
        folder.mkdir(parents=True)
        vertices = template.model.v_template * 1000 * [stretch, 1, 1] + [0, shift, 0]
        facts = METRIC | {"template_hash": template.hash, "levels": 0, "region": "head"}
        T_canonical_metric = Similarity(1 / MM_PER_CANONICAL_UNIT, np.eye(3), np.array([0, -shift, 0]) / 250)
        fit = facts | {"T_canonical_metric": T_canonical_metric.to_json()}
        write_mesh(folder / "flame.ply", Mesh(vertices, template.faces), fit)
        write_npz(folder / "flame.npz", {"vertices_mm": vertices})
        write_mesh(folder / "registered.ply", Mesh(vertices, template.faces), facts)
        write_npz(folder / "registered_weights.npz", {"weight": np.ones(len(vertices), np.float32)})
        scan_vertices, scan_faces = ball(5)
        closed = Mesh(scan_vertices * 1000 * [stretch, 1, 1] + [0, shift, 0], scan_faces)
        write_mesh(folder / "scan_closed.ply", closed, METRIC | {"n_scan_faces": closed.n_faces})
        row = {"identity_scan": "s1/open", "canonical_scan": "s1/open"}
        for stage in STAGES:
            metrics = {"row": row} if stage == "ingest" else {}
            write_record(tmp_path, scan, stage, {"status": "ok", "reason": "", "metrics": metrics, "artifacts": {}})
    return tmp_path


def run(results: Path, stage: str, module, scan: str, settings) -> dict:
    options = argparse.Namespace(results=str(results), template=str(results / "template"), seed=5)
    record = run_stage(STAGES[stage], module.process, scan, settings, options)
    assert record["status"] == "ok", record["reason"]
    return record


def test_sample_sdf_writes_canonical_samples(results):
    settings = SampleSdfConfig(n_surface=2000, n_near=2000, n_far=500)
    record = run(results, "sample_sdf", sample_sdf, "s1/smile", settings)
    reader = SdfSampleReader(results / "scans/s1/smile/samples_sdf.safetensors")
    assert reader.facts["scan"] == "s1/smile"
    assert record["metrics"]["n_face"] + record["metrics"]["n_rest"] == 2000
    assert record["metrics"]["trusted_share_near"] > 0.98
    position, normal = reader.surface("face", 0, reader.count("face"))
    radius_mm = np.linalg.norm(position / [1.1, 1, 1], axis=1) * MM_PER_CANONICAL_UNIT
    assert np.abs(radius_mm - 100).max() < 0.3
    assert np.allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-6)
    # Cut 25 mm below the border of the neck.
    assert position[:, 1].min() * MM_PER_CANONICAL_UNIT > -85


def test_sample_sdf_gives_the_same_bytes_for_the_same_seed(results):
    settings = SampleSdfConfig(n_surface=500, n_near=500, n_far=100)
    digests = []
    for _ in range(2):
        record = run(results, "sample_sdf", sample_sdf, "s1/open", settings)
        digests.append(record["artifacts"]["samples_sdf.safetensors"]["sha256"])
        (results / "scans/s1/open/samples_sdf.safetensors").unlink()
    assert digests[0] == digests[1]


@pytest.mark.parametrize("region", ["head", "face"])
def test_sample_delta_pairs_a_scan_with_its_canonical_neutral(results, region):
    record = run(results, "sample_delta", sample_delta, "s1/smile", SampleDeltaConfig(region=region))
    assert record["warnings"] == []
    assert record["metrics"]["max_delta_mm"] == pytest.approx(10, abs=0.1)
    template = ball_template()
    path = results / "scans/s1/smile/samples_delta.safetensors"
    pairs = read_delta_pairs(path, template.faces, template.n_vertices)
    drawn = pairs.sample(500, rng=np.random.default_rng(0), std_mm=(0.0,))
    assert np.abs(drawn.posed - drawn.canonical * [1.1, 1, 1]).max() < 1e-4
    assert (drawn.canonical[:, 2].min() > 0.1) == (region == "face")


def test_sample_delta_of_the_canonical_scan_is_zero(results):
    record = run(results, "sample_delta", sample_delta, "s1/open", SampleDeltaConfig())
    assert record["metrics"]["max_delta_mm"] == 0.0


def test_sample_delta_warns_where_the_neutral_is_missing(results):
    (results / "scans/s1/open/registered.ply").unlink()
    record = run(results, "sample_delta", sample_delta, "s1/smile", SampleDeltaConfig())
    assert "canonical neutral" in record["warnings"][0]
    assert isinstance(record["metrics"]["trusted_share"], float)
