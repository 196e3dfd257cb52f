"""One fitted ball by both protocols."""

import json
import subprocess
import sys

import numpy as np
import pytest

from nphm_core.config import EvaluateModelConfig
from nphm_core.evaluation.head_regions import HeadRegions, MeasureError
from nphm_core.evaluation.model_measures import measure_fit
from nphm_core.geometry.mesh import Mesh
from nphm_core.spaces import Similarity
from nphm_core.supervision.samples import Plane

SETTINGS = EvaluateModelConfig(n_points=5000, thresholds_mm=(1.0, 2.5))


@pytest.fixture
def regions(ball) -> HeadRegions:
    cap = ball.vertices[::7][ball.vertices[::7, 2] > 50]
    throat = Plane(np.array([0.0, -30, 0]), np.array([0.0, 1, 0]))
    return HeadRegions(throat, cap, cap / 80, Similarity(1 / 250, np.eye(3), np.zeros(3)))


def test_every_column_is_named_by_its_protocol_and_region(ball, regions):
    found = measure_fit(ball, ball, regions, SETTINGS, rng=np.random.default_rng(0))
    columns = found.columns()
    assert len(columns) == 4 * 9
    assert columns["surface.face.chamfer_l1_mm"] < 1e-6
    assert 0 < columns["released_views.head.chamfer_l2_mm2"] < 5
    assert columns["released_views.face.f_score_2.5mm"] > 0.99
    assert found.failure == ""
    assert json.loads(json.dumps(found.to_json()))["surface"]["head"]["n_truth"] > 4500


def test_no_mesh_is_a_failure_with_its_reason(ball, regions):
    nothing = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))
    found = measure_fit(nothing, ball, regions, SETTINGS, rng=np.random.default_rng(0))
    assert "released_views.head" in found.failure
    assert "surface.face" in found.failure
    assert found.columns()["surface.head.chamfer_l1_mm"] is None


def test_wrong_meshes_are_refused_in_words(ball, regions):
    broken = ball.with_vertices(np.where(np.arange(ball.n_vertices)[:, None] == 5, np.nan, ball.vertices))
    with pytest.raises(MeasureError, match="vertices of the fitted head are not finite"):
        measure_fit(broken, ball, regions, SETTINGS, rng=np.random.default_rng(0))
    cloud = Mesh(ball.vertices, np.zeros((0, 3), np.int64))
    with pytest.raises(MeasureError, match="no triangles"):
        measure_fit(ball, cloud, regions, SETTINGS, rng=np.random.default_rng(0))


def test_evaluation_imports_no_torch():
    code = "import sys, nphm_core.evaluation.model_measures, pipelines.evaluate_model; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
