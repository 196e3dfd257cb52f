"""Ingest repairs what can be repaired, says so, and refuses what is no surface."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nphm_core.config import IngestConfig
from nphm_core.errors import ScanFileError
from nphm_core.geometry.mesh import Mesh, Texture, face_normals
from nphm_core.io.meshes import read_scan_file
from nphm_core.io.scan_file import ScanFile
from nphm_core.registration.cloud_repair import estimate_normals, neighbours, orient_cloud_outwards
from nphm_core.registration.ingest import ingest_scan
from nphm_core.registration.mesh_repair import drop_spikes, orient_outwards, share_vertices, turn_faces

_spec = importlib.util.spec_from_file_location("io_shapes", Path(__file__).parents[1] / "io/shapes.py")
shapes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shapes)

PATH = Path("scan.ply")
SETTINGS = IngestConfig()
NO_FACES = np.empty((0, 3), np.int64)


def ingest(mesh: Mesh, settings: IngestConfig = SETTINGS):
    return ingest_scan(ScanFile(mesh, "test", (), mesh.n_faces), settings, PATH)


def joined(*meshes: Mesh) -> Mesh:
    start = np.cumsum([0] + [mesh.n_vertices for mesh in meshes])
    faces = [mesh.faces + first for mesh, first in zip(meshes, start, strict=False)]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))


def outwards(mesh: Mesh) -> np.ndarray:
    normals, _ = face_normals(mesh.vertices, mesh.faces)
    return (normals * mesh.vertices[mesh.faces].mean(axis=1)).sum(axis=1) > 0


def test_a_clean_scan_passes_unchanged():
    mesh = shapes.sphere(24, radius=100.0)
    scan = ingest(mesh)
    np.testing.assert_array_equal(scan.mesh.vertices, mesh.vertices)
    np.testing.assert_array_equal(scan.mesh.faces, mesh.faces)
    assert scan.notes == ()
    assert scan.warnings == ()
    assert scan.statistics["n_boundary_edges"] == 0
    assert scan.statistics["area"] == pytest.approx(4 * np.pi * 100**2, rel=0.01)
    assert scan.statistics["outward_share"] == pytest.approx(1.0, abs=0.01)


def test_small_pieces_lose_their_triangles_and_vertices_stay():
    mesh = joined(shapes.sphere(4, radius=5.0, centre=(200, 0, 0)), shapes.sphere(24, radius=100.0))
    scan = ingest(mesh)
    np.testing.assert_array_equal(scan.mesh.vertices, mesh.vertices)
    assert scan.mesh.n_faces == shapes.sphere(24).n_faces
    assert scan.statistics["n_components"] == 2
    assert scan.statistics["n_components_kept"] == 1
    assert scan.statistics["box_max"][0] <= 100.0


def test_two_heads_of_similar_size_both_stay():
    mesh = joined(shapes.sphere(24, radius=100.0), shapes.sphere(24, radius=90.0, centre=(300, 0, 0)))
    scan = ingest(mesh)
    assert scan.statistics["n_components_kept"] == 2
    assert scan.mesh.n_faces == mesh.n_faces


def test_a_face_seen_from_inside_is_turned_with_its_texture():
    mesh = shapes.open_sphere()
    uv = np.random.default_rng(0).random((mesh.n_faces, 3, 2))
    mesh = replace(mesh, texture=Texture(uv, np.zeros((2, 2, 3), np.uint8)), normals=mesh.vertices)
    inside_out = replace(turn_faces(mesh, np.ones(mesh.n_faces, bool)), normals=-mesh.vertices)
    scan = ingest(inside_out)
    assert scan.statistics["is_inside_out"]
    assert "all triangles were turned" in scan.warnings[0]
    assert outwards(scan.mesh).all()
    np.testing.assert_array_equal(scan.mesh.faces, mesh.faces)
    np.testing.assert_array_equal(scan.mesh.texture.uv, mesh.texture.uv)
    np.testing.assert_allclose(scan.mesh.normals, mesh.vertices)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_triangles_of_any_side_are_made_to_agree(share):
    mesh = shapes.open_sphere()
    mixed = turn_faces(mesh, np.random.default_rng(3).random(mesh.n_faces) < share)
    result = orient_outwards(mixed)
    assert outwards(result.mesh).all()
    assert result.n_inconsistent > 0


def test_orientation_does_not_depend_on_where_the_scan_lies():
    mesh = shapes.open_sphere(12)
    turned = turn_faces(mesh, np.ones(mesh.n_faces, bool))
    for shift in ((0, 0, 0), (1000, -500, 20)):
        moved = turned.with_vertices(turned.vertices + np.array(shift, float))
        assert orient_outwards(moved).is_inside_out


def test_a_few_nan_vertices_cost_their_triangles_only():
    mesh = shapes.sphere(24)
    vertices = mesh.vertices.copy()
    vertices[[5, 600]] = np.nan
    scan = ingest(Mesh(vertices, mesh.faces))
    assert scan.mesh.n_vertices == mesh.n_vertices
    assert np.isfinite(scan.mesh.vertices).all()
    assert not np.isin(scan.mesh.faces, [5, 600]).any()
    assert "2 vertices are NaN" in scan.warnings[0]
    vertices[:100] = np.inf
    with pytest.raises(ScanFileError, match=r"of 1106 vertices are NaN or infinite, expected at most 1%"):
        ingest(Mesh(vertices, mesh.faces))


def test_seams_of_coincident_vertices_are_closed_without_moving_any():
    mesh = shapes.sphere(12)
    corners = mesh.vertices[mesh.faces].reshape(-1, 3)
    soup = Mesh(corners, np.arange(len(corners)).reshape(-1, 3))
    shared, n = share_vertices(soup)
    assert n == len(corners) - mesh.n_vertices
    np.testing.assert_array_equal(shared.vertices, corners)
    scan = ingest(soup)
    assert scan.statistics["n_boundary_edges"] == 0
    assert scan.statistics["n_components"] == 1


def test_repeated_and_degenerate_triangles_go():
    mesh = shapes.sphere(24)
    double = Mesh(
        mesh.vertices, np.concatenate([mesh.faces, mesh.faces[:7, [1, 2, 0]], mesh.faces[:3, ::-1], [[4, 4, 9]]])
    )
    scan = ingest(double)
    np.testing.assert_array_equal(scan.mesh.faces, mesh.faces)
    assert "1 triangles with a repeated corner were dropped" in scan.notes
    assert "10 repeated triangles were dropped" in scan.notes


def test_spikes_go_and_the_tip_of_a_nose_stays():
    mesh = shapes.sphere(40, radius=100.0)
    vertices = mesh.vertices.copy()
    vertices[700] *= 1.6
    cleaned, n = drop_spikes(Mesh(vertices, mesh.faces))
    assert n == (mesh.faces == 700).any(axis=1).sum()
    assert not (cleaned.faces == 700).any()
    # A cone as steep as a nose, over many vertices.
    cosine = mesh.vertices @ mesh.vertices[700] / 100**2
    nose = mesh.vertices * (1 + 0.25 * np.maximum(0, 1 - np.arccos(np.clip(cosine, -1, 1)) / 0.25))[:, None]
    assert drop_spikes(Mesh(nose, mesh.faces))[1] == 0


def test_what_is_no_surface_is_refused():
    cube = Mesh(np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float), NO_FACES)
    corner = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6]])
    empty = Mesh(np.empty((0, 3)), NO_FACES)
    with pytest.raises(ScanFileError, match="no vertices"):
        ingest(empty)
    with pytest.raises(ScanFileError, match=r"8 usable triangles .* at least 500 .*min_triangles"):
        ingest(replace(cube, faces=corner))
    with pytest.raises(ScanFileError, match="8 usable points"):
        ingest(cube)
    flat = shapes.sphere(24)
    with pytest.raises(ScanFileError, match="0 usable triangles of area 0"):
        ingest(flat.with_vertices(np.zeros_like(flat.vertices)))
    with pytest.raises(ScanFileError, match="different places"):
        ingest(Mesh(np.zeros((600, 3)), NO_FACES))


def test_a_finely_divided_cube_passes():
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(-11.0, 12.0, 2.0), np.arange(-11.0, 12.0, 2.0)))
    one = np.full_like(x, 11.0)
    sides = [
        np.stack(s, 1) for s in ((x, y, one), (x, -y, -one), (y, one, x), (-y, -one, x), (one, x, y), (-one, -x, y))
    ]
    i = (np.arange(11)[:, None] * 12 + np.arange(11)).ravel()
    quad = np.concatenate([np.stack([i, i + 1, i + 13], 1), np.stack([i, i + 13, i + 12], 1)])
    scan = ingest(joined(*(Mesh(side, quad) for side in sides)))
    assert scan.statistics["n_boundary_edges"] == 0
    assert scan.statistics["area"] == pytest.approx(24.0 * 11**2)
    assert outwards(scan.mesh).all()


def fibonacci(n: int, radius: float = 100.0) -> np.ndarray:
    i = np.arange(n) + 0.5
    z, around = 1 - 2 * i / n, np.pi * (1 + 5**0.5) * i
    ring = np.sqrt(1 - z**2)
    return radius * np.stack([ring * np.cos(around), ring * np.sin(around), z], axis=1)


def test_clouds_get_outward_normals():
    points = fibonacci(3000)
    scan = ingest(Mesh(points, NO_FACES))
    np.testing.assert_array_equal(scan.mesh.vertices, points)
    assert ((scan.mesh.normals * points).sum(axis=1) / 100 > 0.99).all()
    assert scan.statistics["are_normals_estimated"]
    assert scan.statistics["is_point_cloud"]


def test_normals_of_a_cloud_agree_across_a_thin_sheet():
    points = fibonacci(6000)
    points = points[points[:, 1] > -30] * [1.0, 1.0, 0.3]
    normals = estimate_normals(points, neighbours(points)[1])
    cloud, _, share = orient_cloud_outwards(Mesh(points, NO_FACES, normals))
    true = points / np.array([1.0, 1.0, 0.3]) ** 2
    assert ((cloud.normals * true).sum(axis=1) > 0).mean() > 0.999
    assert share > 0.3


def test_delivered_normals_are_kept_and_turned_if_they_point_inwards():
    points = fibonacci(1000)
    scan = ingest(Mesh(points, NO_FACES, -points / 100))
    np.testing.assert_allclose(scan.mesh.normals, points / 100)
    assert "pointed inwards" in scan.warnings[0]


def test_stray_points_of_a_cloud_are_removed_with_their_colours():
    points = fibonacci(2000)
    stray = np.random.default_rng(0).uniform(-900, 900, (20, 3))
    colours = np.arange(2020 * 3).reshape(-1, 3).astype(np.uint8)
    both = np.concatenate([stray, points, [[np.nan, 0, 0]]])
    scan = ingest(Mesh(both, NO_FACES, None, np.concatenate([colours, colours[:1]])))
    np.testing.assert_array_equal(scan.mesh.vertices, points)
    np.testing.assert_array_equal(scan.mesh.colours, colours[20:])
    assert "1 points without position were removed" in scan.notes


def test_real_scans_pass(shared_dir):
    expected = {
        "menpo_james/james.obj": (12180, 6),
        "meshmonk_demoface/DemoFace_10K.obj": (18222, 2),
        "lee_perry_smith/LeePerrySmith.glb": (17684, 1),
        "negative/igea/igea_mesh.ply": (60000, 1),
    }
    for name, (n_triangles, n_pieces) in expected.items():
        scan = ingest_scan(read_scan_file(shared_dir / "scans" / name), SETTINGS, PATH)
        assert (scan.mesh.n_faces, scan.statistics["n_components"]) == (n_triangles, n_pieces), name
        assert scan.warnings == ()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_neither_pose_nor_unit_changes_what_is_done(seed, scale):
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    bowl = shapes.open_sphere(24, radius=100.0)
    vertices = bowl.vertices.copy()
    vertices[200] *= 1.8
    mesh = joined(Mesh(vertices, bowl.faces), shapes.sphere(4, radius=5.0, centre=(200, 0, 0)))
    mesh = turn_faces(mesh, rng.random(mesh.n_faces) < 0.2)
    moved = mesh.with_vertices(scale * (mesh.vertices @ rotation.T + rng.normal(size=3) * 300))
    expected, found = ingest(mesh), ingest(moved)
    np.testing.assert_array_equal(found.mesh.faces, expected.mesh.faces)
    assert found.notes == expected.notes
    assert found.statistics["outward_share"] == pytest.approx(expected.statistics["outward_share"], abs=1e-6)
