"""The command that fits scans: files in, a folder with mesh, codes, facts and picture for each out."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nphm_core.errors import ConfigError
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import read_json, read_safetensors, write_json
from nphm_core.io.meshes import read_facts, read_mesh, write_mesh
from nphm_core.io.ply import write_ply
from nphm_core.models.neural_head import NeuralHead
from nphm_core.records import scan_folder, write_record
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, Similarity
from pipelines import fit, fit_inputs
from tests.fitting.blob_head import blob_head, surface_points

IDENTITY, EXPRESSION = torch.tensor([[0.9, -0.8, 0.5, 1.1, -1.0]]), torch.tensor([[0.7, -0.6]])
SETTINGS = json.dumps({"n_points": 250, "n_steps": 6, "n_starts": 2, "resolution": 24})
IN_MM = Similarity(MM_PER_CANONICAL_UNIT, np.eye(3), np.array([10.0, -5.0, 20.0]))


@pytest.fixture
def head(monkeypatch) -> NeuralHead:
    model = blob_head()
    monkeypatch.setattr("pipelines.fit_outputs.from_pretrained", lambda folder, *, device, template_hash: model)
    return model


def write_cloud(path: Path, head: NeuralHead, T_observed_canonical: Similarity = IN_MM) -> None:
    directions = torch.randn(500, 3, generator=torch.Generator().manual_seed(7))
    directions[:, 2] = directions[:, 2].abs()
    points, normals = (part.double().numpy() for part in surface_points(head, IDENTITY, EXPRESSION, directions))
    write_ply(
        path,
        Mesh(
            T_observed_canonical.apply(points),
            np.zeros((0, 3), np.int64),
            T_observed_canonical.apply_directions(normals),
        ),
    )


def run(*arguments: str | Path) -> int:
    return fit.main([str(a) for a in (*arguments, "--settings", SETTINGS, "--device", "cpu")])


def test_a_scan_in_metres_gives_a_mesh_in_its_own_frame_in_mm(head, tmp_path) -> None:
    metres = Similarity(0.001, np.eye(3), np.zeros(3)) @ IN_MM
    write_cloud(tmp_path / "my scan.ply", head, metres)
    out = tmp_path / "out"
    code = run(
        tmp_path / "my scan.ply", "--model", tmp_path, "--out", out, "--align", "given", "--unit", "m",
        "--picture-px", 60,
    )  # fmt: skip
    assert code == 0
    folder = out / "my-scan"
    names = {path.name for path in folder.iterdir()}
    assert names == {"fit.json", "codes.safetensors", "mesh.ply", "mesh.json", "fit.png"}
    facts = read_json(folder / "fit.json")
    assert facts["residual_mm"] < 0.5
    assert (facts["scan"], facts["aligned_by"], facts["unit"]) == ("subject/my-scan", "given", "mm")
    assert read_json(out / "fit.json")["scans"][0]["folder"] == "my-scan"
    mesh = read_mesh(folder / "mesh.ply")
    assert read_facts(folder / "mesh.ply")["space"] == "metric"
    back = Similarity.from_json(facts["T_canonical_metric"]) @ IN_MM
    assert np.allclose(back.matrix(), np.eye(4), atol=0.02)
    assert np.abs(mesh.vertices - IN_MM.translation).max() < 250
    codes, _ = read_safetensors(folder / "codes.safetensors")
    assert np.abs(codes["identity_code"] - IDENTITY.numpy()[0]).max() < 0.3


def test_scans_of_a_run_start_from_its_linear_fit(head, tmp_path) -> None:
    results = tmp_path / "results"
    folder = scan_folder(results, "anna/smile")
    folder.mkdir(parents=True)
    write_cloud(tmp_path / "scan.ply", head)
    cloud = read_mesh(tmp_path / "scan.ply")
    write_mesh(folder / "scan.ply", cloud, {"space": "scan", "unit": "mm"})
    write_json(folder / "landmarks3d.json", {"mm_per_scan_unit": 1.0, "unit": "mm", "flip_faces": False})
    write_json(folder / "flame.json", {"T_canonical_metric": IN_MM.inverse().to_json()})
    for stage in ("ingest", "backproject", "flame_fit"):
        write_record(results, "anna/smile", stage, {"status": "ok", "metrics": {"row": {"mm_per_unit": 1.0}}})
    out = tmp_path / "out"
    code = run("anna/smile", "--results", results, "--model", tmp_path, "--out", out, "--picture-px", 0)
    assert code == 0
    facts = read_json(out / "smile" / "fit.json")
    assert facts["aligned_by"] == "faces"
    assert facts["residual_mm"] < 0.5
    assert not (out / "smile" / "fit.png").exists()


def test_a_scan_without_a_face_is_searched_for_with_a_warning(head, tmp_path, caplog) -> None:
    results = tmp_path / "results"
    folder = scan_folder(results, "anna/side")
    folder.mkdir(parents=True)
    write_cloud(tmp_path / "scan.ply", head)
    write_mesh(folder / "scan.ply", read_mesh(tmp_path / "scan.ply"), {"space": "scan", "unit": "mm"})
    write_record(results, "anna/side", "ingest", {"status": "ok", "metrics": {"row": {"mm_per_unit": 1.0}}})
    write_record(results, "anna/side", "backproject", {"status": "blocked", "reason": "no face was found"})
    (scan,), failed = fit_inputs.read_results(results, None, ["anna/side"])
    assert not failed
    assert scan.T_canonical_mesh is None
    assert scan.mm_per_unit == 1.0
    assert "no face was found" in scan.warnings[0]


def test_a_scan_that_was_never_read_has_that_as_its_verdict(tmp_path, caplog) -> None:
    out = tmp_path / "out"
    assert run("a/x", "--results", tmp_path, "--model", tmp_path, "--out", out) == 0
    assert "the scan has no record of ingest" in read_json(out / "fit.json")["failed"]["a/x"]
    assert "the scan has no record of ingest" in caplog.text


def test_scan_ids_are_made_of_file_names_and_differ() -> None:
    paths = [Path("a/scan.ply"), Path("b/scan.ply"), Path("b/My Scan (2).obj")]
    assert fit_inputs.scan_ids_of(paths, separate=False) == ["subject/scan", "subject/scan-2", "subject/My-Scan-2"]
    assert fit_inputs.scan_ids_of(paths, separate=True)[1] == "scan-2/scan"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x.ply", "--align", "given"), "the unit is auto; expected one of"),
        (("a/x", "b/y", "--results", "r"), "the scans are of 2 subjects; expected one"),
        (("a/x", "--results", "r", "--align", "none"), "--align is for scan files"),
    ],
)
def test_wrong_calls_end_with_a_message(arguments, message, tmp_path, caplog) -> None:
    if "x.ply" in arguments:
        write_cloud(tmp_path / "x.ply", blob_head())
        arguments = tuple(tmp_path / "x.ply" if a == "x.ply" else a for a in arguments)
    assert run(*arguments, "--model", tmp_path, "--out", tmp_path / "out") == 1
    assert message in caplog.text


def test_without_a_template_the_embedded_one_is_taken(tmp_path, monkeypatch, caplog) -> None:
    def refuse(cache, settings):
        raise ConfigError(f"asked for {settings.source} in {cache}")

    monkeypatch.setattr(fit, "cached_template", refuse)
    write_cloud(tmp_path / "x.ply", blob_head())
    assert run(tmp_path / "x.ply", "--out", tmp_path / "out", "--cache", "here") == 1
    assert "asked for embedded in here" in caplog.text


def test_help_is_there_without_loading_torch() -> None:
    code = "import sys, pipelines.fit; print('torch' in sys.modules); sys.exit(pipelines.fit.main(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False")
    assert "--model" in done.stdout


def test_the_front_end_has_every_option_that_ingest_asks_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("NPHM_VERDICTS", "someone's.tsv")
    options = fit_inputs._front_end_options(tmp_path / "scans.tsv")
    assert options.table == str(tmp_path / "scans.tsv")
    assert options.canonical == "open"
    assert options.verdicts is None
