"""The command meshes what a model knows, draws and mixes, and says what it lacks."""

import json
import re

import numpy as np
import pytest
import torch

from nphm_core.config import ExpressionModelConfig, IdentityModelConfig
from nphm_core.io.files import write_safetensors
from nphm_core.io.meshes import read_mesh
from nphm_core.models import checkpoint
from nphm_core.models.checkpoint import write_checkpoint
from nphm_core.models.linear_head import LinearHead, write_linear_head
from nphm_core.models.neural_head import NeuralHead, build_head
from nphm_core.template.anchors import mean_anchors
from nphm_core.template.template import write_template
from pipelines.mesh import main
from tests.meshing import sphere_head as shapes


@pytest.fixture
def spheres(monkeypatch):
    head = shapes.SphereHead()
    monkeypatch.setattr(checkpoint, "from_pretrained", lambda folder, device="cpu": head)
    return head


def run(folder, *arguments, resolution=32):
    fixed = ["--model", str(folder), "--out", str(folder / "m.ply"), "--resolution", str(resolution)]
    return main([*fixed, *map(str, arguments)])


def radius(path):
    return float(np.median(np.linalg.norm(read_mesh(path).vertices, axis=1)))


def facts(path):
    return json.loads(path.with_suffix(".json").read_text())


def test_a_training_subject_is_meshed_in_mm_or_canonical_units(spheres, tmp_path, capsys):
    assert run(tmp_path, "--identity", "large") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "m.ply")
    assert radius(tmp_path / "m.ply") == pytest.approx(0.4 * 250, abs=1.0)
    assert facts(tmp_path / "m.ply")["unit"] == "mm"
    assert run(tmp_path, "--identity", "large", "--space", "canonical") == 0
    assert radius(tmp_path / "m.ply") == pytest.approx(0.4, abs=4e-3)
    assert facts(tmp_path / "m.ply")["mm_per_unit"] == 250


def test_an_expression_of_one_subject_is_shown_on_another(spheres, tmp_path):
    assert run(tmp_path, "--identity", "small", "--expression", "large/low", "small/rest") == 0
    low, rest = (read_mesh(tmp_path / f"m-{k}.ply") for k in (0, 1))
    np.testing.assert_array_equal(low.faces, rest.faces)
    np.testing.assert_allclose(low.vertices, rest.vertices * [1, 0.8, 1] + [25, 0, 0], atol=1e-3)
    assert facts(tmp_path / "m-0.ply")["expression"] == "large/low"


def test_identities_are_interpolated_from_end_to_end(spheres, tmp_path):
    assert run(tmp_path, "--interpolate", "small", "large", "--steps", 3) == 0
    found = [radius(tmp_path / f"m-{k}.ply") / 250 for k in range(3)]
    np.testing.assert_allclose(found, [0.3, 0.35, 0.4], atol=4e-3)


def test_samples_depend_on_the_seed_and_on_nothing_else(spheres, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        assert run(tmp_path / name, "--sample", 2, "--seed", seed, "--temperature", 0.5) == 0
    a, b, c = ((tmp_path / name / "m-1.ply").read_bytes() for name in "abc")
    assert a == b != c


def test_codes_of_a_fit_are_read(spheres, tmp_path):
    codes = {"identity_code": np.array([0.25], "f4"), "expression_code": np.array([0, 1], "f4")}
    write_safetensors(tmp_path / "codes.safetensors", codes, {})
    file = tmp_path / "codes.safetensors"
    assert run(tmp_path, "--identity", file, "--expression", file) == 0
    assert radius(tmp_path / "m.ply") == pytest.approx(0.25 * 250, abs=1.0)


def test_a_template_gives_its_topology_and_landmarks(spheres, tmp_path):
    template = shapes.ball_template()
    write_template(tmp_path / "template", template)
    assert run(tmp_path, "--identity", "small", "--expression", "small/rest", "--template", tmp_path / "template") == 0
    mesh, found = read_mesh(tmp_path / "m.ply"), facts(tmp_path / "m.ply")
    np.testing.assert_array_equal(mesh.faces, template.faces)
    np.testing.assert_allclose(found["landmarks"]["4"], mesh.vertices[template.faces[10]].mean(axis=0), atol=1e-3)
    assert len(found["landmarks68"]) == 68


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--identity", "nobody"], r"no subject of this name; it has 2 \(small, large\)"),
        (["--expression", "nobody/smiles"], "no scan of this name"),
        (["--identity", "missing.safetensors"], "cannot be read"),
    ],
)
def test_what_is_missing_is_named(spheres, tmp_path, caplog, arguments, complaint):
    assert run(tmp_path, *arguments) == 1
    assert re.search(complaint, caplog.text)


def test_a_swap_takes_regions_of_a_trained_model(tmp_path, caplog):
    identity = IdentityModelConfig(n_global=8, n_local=4, n_hidden=16, n_hidden_anchors=16)
    expression = ExpressionModelConfig(n_expression=10, n_condition=6, n_hidden=24, n_layers=5)
    anchors = torch.from_numpy(mean_anchors()).float()
    generator = torch.Generator().manual_seed(3)
    small = build_head(identity, expression, anchors, generator=generator)
    codes = torch.randn(2, small.identity.n_code, generator=generator)
    with torch.no_grad():
        level = small.identity.sdf(anchors[None], codes[:1]).median()
        small.identity.networks.biases[-1] -= level
    head = NeuralHead(small.identity, small.expression, identity_codes=codes, subjects=("a", "b"))
    write_checkpoint(tmp_path, head)
    assert run(tmp_path, "--identity", "a") == 0
    plain = (tmp_path / "m.ply").read_bytes()
    assert run(tmp_path, "--identity", "a", "--swap", "mouth,nose", "b") == 0
    assert (tmp_path / "m.ply").read_bytes() != plain
    assert facts(tmp_path / "m.ply")["identity"] == "a with mouth,nose of b"
    assert run(tmp_path, "--identity", "a", "--swap", "lips", "b") == 1
    assert "regions lips are unknown" in caplog.text


def test_a_linear_model_is_meshed_by_the_same_command(tmp_path, caplog):
    unit, faces = shapes.ball(1)
    head = LinearHead(
        mean=(0.4 * unit).astype("f4"),
        identity_basis=(0.1 * unit)[:, :, None].astype("f4"),
        expression_basis=np.zeros((len(unit), 3, 0), "f4"),
        expression_mean=np.zeros(0, "f4"),
        faces=faces,
        anchors=np.arange(3),
        visible=np.ones(len(unit), bool),
        template_hash="f" * 64,
        subjects=("s", "t"),
        identity_codes=np.array([[1.0], [-1.0]], "f4"),
    )
    write_linear_head(tmp_path, head, {})
    assert run(tmp_path, "--identity", "s") == 0
    assert radius(tmp_path / "m.ply") == pytest.approx(0.5 * 250, rel=1e-4)
    assert run(tmp_path, "--swap", "nose", "s") == 1
    assert "linear model have no regions" in caplog.text
