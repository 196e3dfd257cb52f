"""The command that trains the linear baseline, on balls with known modes."""

import json

import numpy as np
import pytest

from nphm_core.config import SubdivideConfig
from nphm_core.evaluation.fine_template import fine_template
from nphm_core.io.training_set import TrainingRow, write_training_set
from nphm_core.models.linear_head import read_linear_head
from nphm_core.supervision.sample_delta import write_delta_samples
from nphm_core.template.model import HeadModel
from nphm_core.template.template import bare_template, write_template
from pipelines import train_baselines

N_SUBJECTS = 6


def octahedron_template():
    vertices = 0.1 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
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
    template.regions["hidden"][5] = True
    return template


@pytest.fixture
def trained_on(tmp_path):
    """Six subjects, two modes of identity, one of expression; one more subject is held out."""
    template = octahedron_template()
    write_template(tmp_path / "template", template)
    fine = fine_template(template, SubdivideConfig(levels=2, region="head"))
    rng = np.random.default_rng(0)
    modes = 0.1 * rng.standard_normal((3, len(fine.rest), 3))
    rows, truth = [], {}
    for number in range(N_SUBJECTS + 1):
        neutral = fine.rest / 250 + np.einsum("k,knd->nd", rng.standard_normal(2), modes[:2])
        for expression, amount in (("open", 0.0), ("smile", rng.uniform(0.5, 2))):
            posed = neutral + amount * modes[2]
            scan = f"s{number}/{expression}"
            path = tmp_path / "scans" / scan / "samples_delta.safetensors"
            write_delta_samples(path, neutral, posed, fine.faces, np.ones(len(posed)), {})
            role = "train" if number < N_SUBJECTS else "held-out"
            rows.append(TrainingRow(f"s{number}", expression, role, expression == "open"))
            truth[scan] = posed
    write_training_set(tmp_path / "training_set.tsv", rows)
    return tmp_path, truth


def run(folder, settings=None) -> int:
    return train_baselines.main([
        "--training-set", str(folder / "training_set.tsv"), "--results", str(folder), "--template",
        str(folder / "template"), "--out", str(folder / "pca"), "--settings", json.dumps(settings or {}),
    ])  # fmt: skip


def test_the_command_learns_the_modes_of_training_subjects_only(trained_on):
    folder, truth = trained_on
    assert run(folder) == 0
    head = read_linear_head(folder / "pca")
    assert head.subjects == tuple(f"s{k}" for k in range(N_SUBJECTS))
    assert (head.n_identity, head.n_expression) == (2, 1)
    for number, scan in enumerate(head.scans):
        subject = head.subjects.index(scan.split("/")[0])
        posed = head.posed(head.identity_codes[subject], head.expression_codes[number])
        # Stored positions are rounded.
        assert np.abs(posed - truth[scan]).max() < 1e-4
    assert 0 < (~head.visible).sum() < 10


def test_the_command_gives_the_same_bytes_again(trained_on):
    folder, _ = trained_on
    assert run(folder) == 0
    first = (folder / "pca/model.safetensors").read_bytes()
    assert run(folder) == 0
    assert (folder / "pca/model.safetensors").read_bytes() == first


def test_no_more_components_than_the_settings_allow(trained_on):
    folder, _ = trained_on
    assert run(folder, {"pca_identity": 1, "pca_expression": 0}) == 0
    head = read_linear_head(folder / "pca")
    assert (head.n_identity, head.n_expression) == (1, 0)


def test_an_unknown_setting_is_refused(trained_on, caplog):
    folder, _ = trained_on
    assert run(folder, {"pca_identities": 1}) == 1
    assert "did you mean pca_identity" in caplog.text
