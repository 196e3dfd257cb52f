"""Fitted balls measured against scanned balls, through the files that the stages write."""

import json
from pathlib import Path

import numpy as np
import pytest

from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.subdivision import subdivided_faces, subdivision_hierarchy
from nphm_core.io.files import write_json, write_npz
from nphm_core.io.meshes import write_mesh
from nphm_core.spaces import Similarity
from nphm_core.template.model import HeadModel
from nphm_core.template.template import Template, bare_template, write_template
from pipelines.evaluate_model import main

METRIC = {"space": "metric", "unit": "mm"}
SETTINGS = '{"n_points": 4000}'
OFFSET_MM = 1.5


def ball(levels: int) -> tuple[np.ndarray, np.ndarray]:
    vertices = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    steps = subdivision_hierarchy(faces, 6, levels, scheme="midpoint")
    for step in steps:
        vertices = step.matrix @ vertices
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    return vertices, subdivided_faces(steps, faces)[0]


def ball_template() -> Template:
    vertices, faces = ball(4)
    n = len(vertices)
    model = HeadModel(
        v_template=0.1 * vertices,
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
    template.regions["face"][:] = (vertices[:, 2] > 0.5) & (vertices[:, 1] > -0.4)
    template.regions["neck"][:] = vertices[:, 1] < -0.4
    return template


@pytest.fixture
def folders(tmp_path) -> Path:
    """Two scans, in cm and inside out, and a fit of each that is 1.5 mm too large."""
    template = ball_template()
    write_template(tmp_path / "template", template)
    vertices, faces = ball(5)
    for scan_id in ("s1/open", "s2/smile"):
        folder = tmp_path / "results/scans" / scan_id
        write_mesh(folder / "scan.ply", Mesh(10 * vertices, faces[:, ::-1]), {"space": "scan", "unit": "cm"})
        write_json(folder / "landmarks3d.json", {"mm_per_scan_unit": 10.0, "flip_faces": True})
        registered = Mesh(1000 * template.model.v_template, template.faces)
        write_mesh(folder / "registered.ply", registered, METRIC | {"template_hash": template.hash})
        write_npz(folder / "flame.npz", {"vertices_mm": registered.vertices})
        T_canonical_metric = Similarity(1 / 250, np.eye(3), np.zeros(3))
        write_json(folder / "flame.json", {"T_canonical_metric": T_canonical_metric.to_json()})
        write_mesh(tmp_path / "fits" / scan_id / "mesh.ply", Mesh((100 + OFFSET_MM) * vertices, faces), METRIC)
    return tmp_path


def run(folders: Path, *more: str) -> int:
    return main(
        [
            *more, "--results", str(folders / "results"), "--template", str(folders / "template"),
            "--fits", str(folders / "fits"), "--out", str(folders / "table.tsv"), "--settings", SETTINGS,
        ]
    )  # fmt: skip


def table(folders: Path) -> list[dict[str, str]]:
    lines = [line.split("\t") for line in (folders / "table.tsv").read_text().splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def test_every_fit_is_measured_in_mm(folders, capsys):
    assert run(folders) == 0
    rows = table(folders)
    assert [(row["model"], row["subject"], row["expression"]) for row in rows] == [
        ("fits", "s1", "open"), ("fits", "s2", "smile"),
    ]  # fmt: skip
    for row in rows:
        assert float(row["surface.face.chamfer_l1_mm"]) == pytest.approx(OFFSET_MM, abs=0.02)
        assert float(row["surface.head.f_score_1mm"]) == 0.0
        assert OFFSET_MM < float(row["released_views.face.accuracy_mm"]) < OFFSET_MM + 1
        assert row["failure"] == ""
    metrics = json.loads((folders / "fits/s1/open/metrics.json").read_text())
    assert metrics["scan"] == "s1/open"
    assert metrics["surface"]["head"]["chamfer_l2_mm2"] == pytest.approx(OFFSET_MM**2, abs=0.05)
    told = capsys.readouterr().out
    assert "all 2 fits were measured" in told
    assert "surface.face" in told


def test_a_missing_fit_is_a_row_with_its_reason(folders, capsys):
    (folders / "fits/s1/open/mesh.ply").unlink()
    assert run(folders) == 0
    first, second = table(folders)
    assert "missing" in first["failure"]
    assert first["surface.face.chamfer_l1_mm"] == ""
    assert second["failure"] == ""
    assert "1 of 2 fits failed" in capsys.readouterr().out


def test_asked_scans_without_a_fit_are_failures(folders):
    assert run(folders, "s2/smile", "s3/open") == 0
    assert [bool(row["failure"]) for row in table(folders)] == [False, True]


def test_the_same_inputs_give_the_same_bytes(folders):
    run(folders)
    first = (folders / "table.tsv").read_bytes(), (folders / "fits/s1/open/metrics.json").read_bytes()
    run(folders)
    assert ((folders / "table.tsv").read_bytes(), (folders / "fits/s1/open/metrics.json").read_bytes()) == first


def test_a_fit_in_another_space_is_refused(folders):
    facts = {"space": "canonical", "unit": "canonical"}
    write_json(folders / "fits/s1/open/mesh.json", facts)
    run(folders)
    assert "expected metric space in mm" in table(folders)[0]["failure"]


def test_a_cloud_is_measured_as_the_surface_through_it(folders):
    folder = folders / "results/scans/s1/open"
    vertices, faces = ball(5)
    write_mesh(folder / "scan.ply", Mesh(10 * vertices, np.zeros((0, 3), np.int64)), {"space": "scan", "unit": "cm"})
    write_mesh(folder / "scan_closed.ply", Mesh(100 * vertices, faces), METRIC | {"n_scan_faces": len(faces)})
    run(folders)
    assert float(table(folders)[0]["surface.face.chamfer_l1_mm"]) == pytest.approx(OFFSET_MM, abs=0.02)


def test_wrong_calls_end_with_a_message(folders, caplog):
    assert main(["--results", "r", "--template", "t", "--fits", "f", "--out", "o", "--settings", "{"]) == 1
    assert "not JSON" in caplog.text
    empty = folders / "empty"
    empty.mkdir()
    arguments = ["--results", str(folders / "results"), "--template", str(folders / "template"), "--fits", str(empty)]
    assert main([*arguments, "--out", str(folders / "t.tsv")]) == 1
    assert "holds no SUBJECT/EXPRESSION" in caplog.text


def test_no_measured_fit_at_all_is_an_error(folders):
    assert run(folders, "s9/none") == 1
    assert len(table(folders)) == 1
