"""The command exports a run or a model, tells what it did, and refuses what makes no sense."""

import csv
import json
import zipfile

import numpy as np
import pytest

from nphm_core.config import IngestConfig
from nphm_core.io.layouts import read_nphm_mm_per_unit
from nphm_core.io.meshes import read_scan_file
from nphm_core.io.scan_table import read_scan_table
from nphm_core.models import checkpoint
from nphm_core.registration.ingest import ingest_scan
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.supervision.sample_delta import write_delta_samples
from nphm_core.supervision.sample_file import write_sdf_samples
from nphm_core.supervision.samples import DistanceSamples, SdfSamples, SurfaceSamples
from nphm_core.template.template import write_template
from pipelines.export import main
from tests.exports import foreign_readers as foreign
from tests.exports import small_run
from tests.meshing import sphere_head as shapes


@pytest.fixture(scope="module")
def template():
    return small_run.ball_template()


@pytest.fixture(scope="module")
def scans(template):
    return {scan.scan_id: scan for scan in small_run.registered_scans(template)}


@pytest.fixture(scope="module")
def run(tmp_path_factory, template, scans):
    folder = tmp_path_factory.mktemp("run")
    small_run.write_run(folder / "results", template, scans.values(), failed=("s002/smile",))
    write_template(folder / "cache" / "templates" / "ball", template)
    return folder


def export(run, out, kind, *more):
    source = ["--results", str(run / "results"), "--cache", str(run / "cache"), "--format", kind, "--out", str(out)]
    return main([*source, *map(str, more)])


def test_the_nphm_layout_is_read_from_its_description_alone(run, scans, template, tmp_path):
    assert export(run, tmp_path / "n", "nphm") == 0
    folder, facts = foreign.NphmFolder(tmp_path / "n"), small_run.facts_of(tmp_path / "n")
    for scan_id in ("s001/neutral", "s002/mouth-open"):
        scan = scans[scan_id]
        subject = facts["subject_numbers"][scan.subject]
        expression = facts["expression_numbers"][scan.expression]
        points, faces = folder.mesh(subject, expression, "registration")
        np.testing.assert_array_equal(faces, scan.registered.faces)
        np.testing.assert_allclose(folder.raw_mm(subject, expression, points), scan.registered.vertices, atol=1e-4)
        flame, faces = folder.mesh(subject, expression, "flame")
        np.testing.assert_array_equal(faces, template.faces)
        np.testing.assert_allclose(folder.raw_mm(subject, expression, flame), scan.fit_vertices_mm, atol=1e-4)
        anchors = folder.anchors(subject, expression)
        np.testing.assert_allclose(anchors, points[template.anchors])
    assert (folder.neutral(1, "closed"), folder.neutral(1, "open"), folder.neutral(2, "open")) == (0, 1, 1)
    assert np.load(tmp_path / "n/assets/face.npy").shape == (scans["s001/neutral"].registered.n_vertices,)
    assert np.load(tmp_path / "n/assets/anchors_39.npy").shape == (39, 3)


def test_one_nphm_unit_is_250_mm_of_a_metric_head(run, scans, tmp_path):
    assert export(run, tmp_path / "n", "nphm", "--subjects", "s001") == 0
    points, _ = foreign.NphmFolder(tmp_path / "n").mesh(1, 0, "registration")
    edge = np.linalg.norm(points[0] - points[500])
    metric = scans["s001/neutral"].registered.vertices
    scale = float(np.load(tmp_path / "n/DATA/001/000/s.npy"))
    assert edge / np.linalg.norm(metric[0] - metric[500]) == pytest.approx(scale, rel=1e-5)
    assert 1 / scale == pytest.approx(MM_PER_CANONICAL_UNIT, rel=0.05)


def test_our_own_ingest_takes_the_exported_layout_as_scans(run, scans, tmp_path):
    assert export(run, tmp_path / "n", "nphm") == 0
    table = read_scan_table(tmp_path / "n")
    # Five scans: one was not registered.
    assert [(row.scan_id, row.neutral, row.unit) for row in table.rows] == [
        ("001/000", "closed", "nphm"), ("001/001", "open", "nphm"), ("001/002", "", "nphm"),
        ("002/000", "closed", "nphm"), ("002/001", "open", "nphm"),
    ]  # fmt: skip
    scan = scans["s002/mouth-open"]
    row = table.row("002/001")
    found = ingest_scan(read_scan_file(row.path), IngestConfig(min_triangles=10), row.path).mesh
    expected = scan.T_canonical_metric.apply(scan.read_scan().vertices)
    np.testing.assert_allclose(found.vertices, expected, atol=1e-6)
    np.testing.assert_array_equal(found.colours, scan.read_scan().colours)
    assert read_nphm_mm_per_unit(row.path) == pytest.approx(1 / scan.T_canonical_metric.scale)


def test_numbers_do_not_depend_on_which_scans_are_chosen(run, tmp_path):
    assert export(run, tmp_path / "n", "nphm", "--scans", "s002/mouth-open") == 0
    assert [path.parent.name for path in (tmp_path / "n/DATA").glob("*/*/scan.ply")] == ["001"]
    assert (tmp_path / "n/DATA/002/001").is_dir()
    assert json.loads((tmp_path / "n/neutrals_closed.json").read_text()) == {"2": -1}


def test_nphms_training_samples_are_on_the_scan_and_pairs_correspond(run, scans, template, tmp_path):
    scan = scans["s001/mouth-open"]
    folder = run / "results" / "scans" / "s001" / "mouth-open"
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((900, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    surface = SurfaceSamples(0.4 * normal, normal)
    off = DistanceSamples(0.5 * normal, np.full(900, 0.1), np.ones(900, bool))
    write_sdf_samples(folder / "samples_sdf.safetensors", SdfSamples(surface, surface, off, off), {})
    posed = scan.T_canonical_metric.apply(scan.registered.vertices)
    moved = posed + [0.01, 0.0, 0.0]
    weight = np.ones(len(posed))
    write_delta_samples(folder / "samples_delta.safetensors", posed, moved, scan.registered.faces, weight, {})
    assert export(run, tmp_path / "n", "nphm", "--scans", "s001/mouth-open", "--with-samples") == 0
    reader = foreign.NphmFolder(tmp_path / "n")
    for k in (0, 199):
        for kind in ("face", "non_face"):
            rows = reader.identity_chunk(1, 1, k, kind)
            assert rows.shape == (5000, 6)
            assert rows.dtype == np.float32
            np.testing.assert_allclose(np.linalg.norm(rows[:, :3], axis=1), 0.4, atol=1e-4)
            np.testing.assert_allclose(rows[:, :3] / 0.4, rows[:, 3:], atol=0.03)
    pairs = reader.pair_chunk(1, 1, 99)
    assert pairs.shape == (10000, 6)
    assert pairs.dtype == np.float64
    np.testing.assert_allclose(pairs[:, 3:] - pairs[:, :3], [[0.01, 0, 0]] * 10000, atol=1e-4)
    assert not np.array_equal(pairs, reader.pair_chunk(1, 1, 0))


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1.0), ("m", 1000.0), ("canonical", 250.0)])
def test_meshes_are_in_the_unit_and_space_that_were_asked_for(run, scans, tmp_path, unit, mm):
    scan = scans["s001/smile"]
    assert export(run, tmp_path / "a", "ply", "--unit", unit, "--scans", scan.scan_id) == 0
    assert export(run, tmp_path / "b", "obj", "--unit", unit, "--scans", scan.scan_id, "--space", "canonical") == 0
    metric, faces = foreign.meshio_mesh(tmp_path / "a/s001/smile.ply")
    np.testing.assert_array_equal(faces, scan.registered.faces)
    np.testing.assert_allclose(metric * mm, scan.registered.vertices, atol=1e-4)
    canonical, _ = foreign.meshio_mesh(tmp_path / "b/s001/smile.obj")
    np.testing.assert_allclose(canonical * mm / 250, scan.T_canonical_metric.apply(scan.registered.vertices), atol=1e-6)
    facts = small_run.facts_of(tmp_path / "b")
    assert (facts["unit"], facts["space"], facts["topology"]) == (unit, "canonical", "registered")


def test_the_templates_topology_is_the_first_vertices(run, scans, template, tmp_path):
    assert export(run, tmp_path / "a", "ply", "--topology", "template", "--scans", "s001/smile") == 0
    vertices, faces = foreign.meshio_mesh(tmp_path / "a/s001/smile.ply")
    np.testing.assert_array_equal(faces, template.faces)
    expected = scans["s001/smile"].registered.vertices[: template.n_vertices]
    np.testing.assert_allclose(vertices, expected, atol=1e-4)


def test_flame_files_agree_with_each_other(run, scans, template, tmp_path):
    assert export(run, tmp_path / "f", "flame", "--subjects", "s002") == 0
    folder = tmp_path / "f/s002/neutral"
    with np.load(tmp_path / "f/model.npz") as model, np.load(folder / "params.npz") as params:
        head = foreign.flame_head(dict(model), dict(params))
    fitted, faces = foreign.meshio_mesh(folder / "fit.ply")
    np.testing.assert_allclose(head, fitted, atol=1e-6)
    np.testing.assert_array_equal(faces, template.faces)
    registered, _ = foreign.meshio_mesh(folder / "registered.ply")
    scan = scans["s002/neutral"]
    expected = scan.T_canonical_metric.apply(scan.registered.vertices[: template.n_vertices]) / 4
    np.testing.assert_allclose(registered, expected, atol=1e-7)


def test_a_model_that_may_not_be_passed_on_stays_where_it_is(scans, tmp_path):
    template = small_run.ball_template(licence="see the model's own licence")
    small_run.write_run(tmp_path / "results", template, scans.values())
    write_template(tmp_path / "cache" / "templates" / "ball", template)
    assert export(tmp_path, tmp_path / "f", "flame", "--scans", "s001/smile") == 0
    assert not (tmp_path / "f/model.npz").exists()
    assert small_run.facts_of(tmp_path / "f")["template_licence"] == "see the model's own licence"


def test_a_glb_a_subject_holds_its_expressions_and_the_models(run, scans, tmp_path):
    assert export(run, tmp_path / "g", "glb") == 0
    _, _, targets = foreign.gltflib(tmp_path / "g/s001.glb")
    assert list(targets) == ["mouth-open", "smile", "browUp", "jawForward", "pucker"]
    _, _, fewer = foreign.gltflib(tmp_path / "g/s002.glb")
    assert "smile" not in fewer
    facts = small_run.facts_of(tmp_path / "g")
    assert facts["left_out"] == {"s002/smile": "arap: no face"}
    assert facts["subjects"]["s001"]["base"] == "neutral"


def test_landmarks_are_points_of_the_registered_mesh(run, scans, template, tmp_path):
    assert export(run, tmp_path / "l", "landmarks", "--unit", "m", "--subjects", "s001") == 0
    points = np.load(tmp_path / "l/s001/smile/landmarks68.npy")
    corners = scans["s001/smile"].registered.vertices[template.faces[:68]]
    np.testing.assert_allclose(points, np.einsum("k,nkd->nd", [0.5, 0.3, 0.2], corners) / 1000, atol=1e-7)
    seven = np.load(tmp_path / "l/s001/smile/now7.npy")
    np.testing.assert_array_equal(seven, points[[36, 39, 42, 45, 33, 48, 54]])


def test_the_svfr_zip_has_the_benchmarks_names(run, scans, template, tmp_path):
    with (tmp_path / "keys.tsv").open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerows(
            [
                ["subject", "expression", "participant", "image_key"],
                ["s001", "smile", "17", "EMO-1-shout+laugh_156_221501007"],
            ]
        )
    assert export(run, tmp_path / "s", "svfr", "--keys", tmp_path / "keys.tsv") == 0
    with zipfile.ZipFile(tmp_path / "s/svfr_submission.zip") as archive:
        names = sorted(archive.namelist())
        folder = "017/EMO-1-shout+laugh_156_221501007/"
        assert names == [folder + name for name in (
            "landmarks_neutral.npy", "landmarks_posed.npy", "mesh_neutral.ply", "mesh_posed.ply",
        )]  # fmt: skip
        archive.extractall(tmp_path / "zip")
    posed, _ = foreign.meshio_mesh(tmp_path / "zip" / folder / "mesh_posed.ply")
    scan = scans["s001/smile"]
    expected = scan.to_metres.apply(scan.registered.vertices[: template.n_vertices])
    np.testing.assert_allclose(posed, expected, atol=1e-7)
    neutral, _ = foreign.meshio_mesh(tmp_path / "zip" / folder / "mesh_neutral.ply")
    rest = template.model.pose(scan.fit.identity)
    np.testing.assert_allclose(neutral, (scan.to_metres @ scan.T_metric_model).apply(rest), atol=1e-7)
    seven = np.load(tmp_path / "zip" / folder / "landmarks_posed.npy")
    assert seven.shape == (7, 3)
    assert np.linalg.norm(posed[:, None] - seven, axis=2).min(axis=0).max() < 0.05


def test_a_trained_model_gives_a_glb_with_its_expressions(tmp_path, monkeypatch):
    head = shapes.SphereHead()
    template = shapes.ball_template()
    head.template_hash = template.hash
    monkeypatch.setattr(checkpoint, "from_pretrained", lambda folder, device="cpu": head)
    write_template(tmp_path / "cache/templates/ball", template)
    fixed = ["--model", str(tmp_path), "--cache", str(tmp_path / "cache"), "--format"]
    assert main([*fixed, "glb", "--out", str(tmp_path / "g"), "--expressions", "small/rest", "large/low"]) == 0
    vertices, _, targets = foreign.gltflib(tmp_path / "g/large.glb")
    assert list(targets) == ["small-rest", "low"]
    shell = np.linalg.norm(vertices, axis=1)
    assert np.median(shell) == pytest.approx(0.4 * 0.25, abs=1e-3)  # metres
    expected = vertices * [1, 0.8, 1] + [0.1 * 0.25, 0, 0]
    # Below lies the hidden region, which follows the rest.
    on_shell = (np.abs(shell - 0.1) < 1e-4) & (vertices[:, 1] > -0.08)
    np.testing.assert_allclose((vertices + targets["low"])[on_shell], expected[on_shell], atol=2e-3)
    assert main([*fixed, "landmarks", "--out", str(tmp_path / "l"), "--subjects", "small", "--unit", "m"]) == 0
    assert np.load(tmp_path / "l/small/rest/landmarks68.npy").shape == (68, 3)


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("glb", ["--unit", "mm"], "in metres by its definition"),
        ("nphm", ["--unit", "m"], "canonical units of 250 mm by its definition"),
        ("ply", ["--subjects", "s009"], "1 subjects are not there; expected names among the 2 that are: s001, s002"),
        ("ply", ["--scans", "s002/smile"], "none of the 1 scans was registered"),
        ("svfr", ["--keys", "nowhere.tsv"], "the table of image keys cannot be read"),
        ("ply", ["--template", "nowhere"], "holds no template.json"),
        ("ply", ["--cache", "nowhere"], "none of the 0 templates in the cache is"),
    ],
)
def test_wrong_calls_end_with_a_message(run, tmp_path, caplog, kind, more, message):
    assert export(run, tmp_path / "x", kind, *more) == 1
    assert message in caplog.text
    assert not list(tmp_path.rglob("*.json"))


def test_exports_do_not_mix_in_one_folder(run, tmp_path, caplog):
    assert export(run, tmp_path, "landmarks", "--scans", "s001/smile") == 0
    assert export(run, tmp_path, "ply", "--scans", "s001/smile") == 1
    assert "the folder is not empty" in caplog.text
    assert export(run, tmp_path, "ply", "--scans", "s001/smile", "--force") == 0


def test_a_model_has_no_data_set_layout(tmp_path, caplog):
    assert main(["--model", str(tmp_path), "--format", "nphm", "--out", str(tmp_path / "x")]) == 1
    assert "a model has no nphm" in caplog.text
