"""The commands of both training stages, on spheres in place of heads: from the scans' folders to a model."""

import json
import subprocess
import sys

import numpy as np
import pytest

from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import write_json
from nphm_core.io.meshes import write_mesh
from nphm_core.io.training_set import TrainingRow, write_training_set
from nphm_core.models.checkpoint import from_pretrained
from nphm_core.records import write_record
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, Similarity
from nphm_core.supervision.sample_delta import write_delta_samples
from nphm_core.supervision.sample_file import write_sdf_samples
from nphm_core.template.model import HeadModel
from nphm_core.template.template import bare_template, write_template
from pipelines import train_expression, train_identity
from tests.training import toy
from tests.training.conftest import make_sphere, sphere_samples

EXPRESSIONS = {"open": 1.0, "smile": 1.2}


def sphere_template():
    vertices, faces = make_sphere(2, 0.1)
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
    template.anchors[:] = np.random.default_rng(0).integers(0, n, 39)
    return template


@pytest.fixture
def results(tmp_path):
    """Four subjects to train on, one held out, one left out; each with two expressions."""
    template = sphere_template()
    write_template(tmp_path / "template", template)
    T_canonical_metric = Similarity(1 / MM_PER_CANONICAL_UNIT, np.eye(3), np.zeros(3))
    rows = []
    for number in range(6):
        radius = 0.3 + 0.04 * number
        neutral = template.model.v_template / 0.1 * radius
        role = {4: "held-out", 5: "left-out"}.get(number, "train")
        for expression, stretch in EXPRESSIONS.items():
            scan = f"s{number}/{expression}"
            rows.append(TrainingRow(f"s{number}", expression, role, expression == "open", "it is a lamp"))
            if role == "left-out":
                continue
            folder = tmp_path / "scans" / scan
            folder.mkdir(parents=True)
            posed = neutral * [1, stretch, 1]
            facts = {"space": "metric", "unit": "mm", "template_hash": template.hash}
            write_mesh(folder / "registered.ply", Mesh(posed * MM_PER_CANONICAL_UNIT, template.faces), facts)
            write_json(folder / "flame.json", {"T_canonical_metric": T_canonical_metric.to_json()})
            write_sdf_samples(folder / "samples_sdf.safetensors", sphere_samples(radius, 100, number), {})
            weight = np.ones(len(posed))
            write_delta_samples(folder / "samples_delta.safetensors", neutral, posed, template.faces, weight, {})
    write_training_set(tmp_path / "training_set.tsv", rows)
    return tmp_path


def arguments(results, out: str, settings, *more: str) -> list[str]:
    folders = {"training-set": "training_set.tsv", "results": "", "template": "template", "out": out}
    named = [f"--{name}={results / path}" for name, path in folders.items()]
    return [*named, f"--settings={settings.model_dump_json()}", "--seed=2", "--device=cpu", *more]


def identity(results, *more: str, **changes) -> int:
    settings = toy.IDENTITY.model_copy(update={"n_steps": 10} | changes)
    return train_identity.main(arguments(results, "identity", settings, *more))


def expression(results, *more: str, **changes) -> int:
    settings = toy.EXPRESSION.model_copy(update={"n_steps": 10} | changes)
    return train_expression.main(arguments(results, "head", settings, f"--identity={results / 'identity'}", *more))


def journal(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def test_both_stages_write_models_that_can_be_read(results, caplog):
    caplog.set_level("INFO")
    assert identity(results) == 0
    assert "left out: s5/open: it is a lamp" in caplog.text
    head = from_pretrained(results / "identity", template_hash=sphere_template().hash)
    assert head.subjects == ("s0", "s1", "s2", "s3")
    assert head.expression is None
    lines = journal(results / "identity")
    assert [line["step"] for line in lines] == [5, 10]
    assert lines[0]["validation"]["total"] > 0
    radius = head.identity.mean_anchors.norm(dim=1).numpy()
    assert np.abs(radius - 0.36).max() < 1e-5
    assert expression(results) == 0
    trained = from_pretrained(results / "head")
    assert trained.subjects == head.subjects
    assert trained.scans == tuple(f"s{i}/{name}" for i in range(4) for name in EXPRESSIONS)
    assert trained.facts["train_identity.seed"] == trained.facts["train_expression.seed"] == 2
    assert journal(results / "head")[0]["validation"]["pairs"] > 0


def test_a_second_run_has_nothing_to_do_and_gives_the_same_bytes(results):
    digests = []
    for _ in range(2):
        assert identity(results) == 0
        digests.append((results / "identity/model.safetensors").read_bytes())
        (results / "identity/config.json").unlink()
    assert digests[0] == digests[1]
    assert len(journal(results / "identity")) == 2


def test_other_settings_start_anew_unless_resuming_is_demanded(results, caplog):
    assert identity(results) == 0
    caplog.set_level("INFO")
    assert identity(results, "--resume", weight_normals=0.1) == 1
    assert "other settings" in caplog.text
    assert identity(results, weight_normals=0.1) == 0
    assert "training starts anew" in caplog.text


def test_subjects_can_be_held_out_by_name(results):
    assert identity(results, "--hold-out=s3", validation_subjects=("s2",)) == 0
    assert from_pretrained(results / "identity").subjects == ("s0", "s1")
    assert expression(results, "--hold-out=s3,s1") == 0
    assert from_pretrained(results / "head").scans == ("s0/open", "s0/smile")


def test_a_subject_to_hold_out_must_exist(results, caplog):
    assert identity(results, "--hold-out=nobody") == 1
    assert "Missing: nobody" in caplog.text


def test_training_goes_on_from_an_earlier_model(results):
    assert identity(results, "--hold-out=s3") == 0
    (results / "identity").rename(results / "earlier")
    assert identity(results, f"--initial={results / 'earlier'}", n_steps=1) == 0
    earlier, later = (from_pretrained(results / name) for name in ("earlier", "identity"))
    assert later.subjects == (*earlier.subjects, "s3")
    weights = [model.identity.networks.weights[0] for model in (earlier, later)]
    assert (weights[0] - weights[1]).abs().max() < 0.01


def test_joint_steps_train_the_identity_too(results):
    assert identity(results) == 0
    assert expression(results, joint_steps=5) == 0
    before, after = from_pretrained(results / "identity"), from_pretrained(results / "head")
    assert (before.identity_codes != after.identity_codes).any()
    assert journal(results / "head")[-1]["stage"] == "joint"


def test_nobody_to_train_on_is_an_error_with_a_remedy(results, caplog):
    names = ",".join(f"s{i}" for i in range(4))
    assert identity(results, f"--hold-out={names}") == 1
    assert "no subject has usable samples" in caplog.text


def test_the_scan_table_serves_in_place_of_the_training_set(results):
    lines = ["subject\texpression\tpath\tneutral"]
    for number in range(2):
        for name in EXPRESSIONS:
            lines.append(f"s{number}\t{name}\tscan.ply\t{'open' if name == 'open' else ''}")
            for stage in ("arap", "sample_sdf", "sample_delta", "evaluate"):
                status = "failed" if number == 1 and stage == "sample_sdf" else "ok"
                artifacts = ("samples_sdf.safetensors", "samples_delta.safetensors", "registered.ply")
                record = {"status": status, "reason": "no head", "metrics": {"verdict": "ok"}}
                record["artifacts"] = {artifact: {"bytes": 1, "sha256": "0"} for artifact in artifacts}
                write_record(results, f"s{number}/{name}", stage, record)
    (results / "scans.tsv").write_text("\n".join(lines) + "\n")
    options = arguments(results, "identity", toy.IDENTITY.model_copy(update={"n_steps": 2}))
    assert train_identity.main([f"--table={results / 'scans.tsv'}", "--canonical=open", *options[1:]]) == 0
    assert from_pretrained(results / "identity").subjects == ("s0",)


@pytest.mark.parametrize("stage", ["train_identity", "train_expression"])
def test_help_does_not_load_torch(stage):
    made = f"{stage}.training_parser('{stage}', '')"
    code = f"import sys; from pipelines import {stage}; {made}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
