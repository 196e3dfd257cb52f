"""Quality pictures of balls with noses: their tiles show what is known of them."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from nphm_core.geometry.mesh import Mesh
from nphm_core.report.colour_map import UNSEEN, error_colours
from nphm_core.report.head_views import HeadSurface, error_picture, grid_picture, head_cameras, overlay_picture
from nphm_core.report.quality_picture import Heading, failure_picture, registration_picture
from nphm_core.report.quality_tiles import RegistrationView, registration_tiles
from nphm_core.spaces import Similarity
from tests.evaluation.conftest import make_ball

HEADING = Heading("s01/smile", "suspicious", ["the median is 0.31 mm", "and more"], "face: median 0.31 mm", "evaluate")


def _head(n_levels: int) -> Mesh:
    ball = make_ball(1, n_levels)
    vertices, faces = ball.vertices, ball.faces
    nose = np.exp(-((vertices - [0, -0.1, 1]) ** 2).sum(1) / 0.03)
    return Mesh(vertices * [75, 110, 90] + 22 * nose[:, None] * vertices, faces)


@pytest.fixture(scope="module")
def view() -> RegistrationView:
    head = _head(5)
    n = head.n_vertices
    marks = head.vertices[np.argsort(-head.vertices[:, 2])[:8]]
    return RegistrationView(
        scan=head,
        linear_fit=head.with_vertices(head.vertices * 1.01),
        registered=head,
        rest=head.vertices,
        face=(head.vertices[:, 2] > 20) & (np.abs(head.vertices[:, 1]) < 80),
        distance=np.full(n, 0.0),
        is_measured=np.ones(n, bool),
        is_folded=np.zeros(head.n_faces, bool),
        landmarks=marks,
        landmarks_registered=marks + 4,
        landmark_trusted=np.arange(8) % 2 == 0,
    )


@pytest.fixture(scope="module")
def camera(view):
    return head_cameras(view.registered.vertices[view.face], view.registered.vertices, 200)[0]


def _page(view: RegistrationView, T_head_metric: Similarity) -> Image.Image:
    tiles = registration_tiles(view, T_head_metric, tile_px=160, colour_max_mm=0.5)
    return registration_picture(tiles, HEADING, colour_max_mm=0.5)


def test_the_camera_frames_the_face(view, camera):
    at = camera.project(view.registered.vertices[view.face])
    assert (at >= 0).all()
    assert (at <= [camera.width, camera.height]).all()
    assert np.ptp(at[:, 1]) > 0.5 * camera.height


def test_a_pose_of_the_scan_does_not_change_the_picture(view):
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    T_metric_head = Similarity(1.0, rotation, np.array([300.0, -80, 1500]))

    def moved(mesh: Mesh) -> Mesh:
        return mesh.with_vertices(T_metric_head.apply(mesh.vertices))

    turned = replace(
        view,
        scan=moved(view.scan),
        linear_fit=moved(view.linear_fit),
        registered=moved(view.registered),
        landmarks=T_metric_head.apply(view.landmarks),
        landmarks_registered=T_metric_head.apply(view.landmarks_registered),
    )
    upright, again = (
        np.asarray(_page(v, T), int) for v, T in ((view, Similarity.identity()), (turned, T_metric_head.inverse()))
    )
    assert (np.abs(upright - again).max(2) > 8).mean() < 0.01


def test_an_error_has_its_colour_where_it_is(view, camera):
    tile = HeadSurface(view.registered).seen_by(camera)
    left = view.registered.vertices[:, 0] > 5
    picture = error_picture(tile, np.where(left, 0.5, 0.0), view.is_measured, 0.5)
    middle = camera.height // 2
    # +x is the subject's left and the picture's right.
    bad, good = picture[middle, round(0.65 * camera.width)], picture[middle, round(0.35 * camera.width)]
    assert np.abs(bad.astype(int) - error_colours()[-1]).max() < 30
    assert np.abs(good / good.max() - error_colours()[0] / error_colours()[0].max()).max() < 0.03


def test_unseen_vertices_are_grey_even_without_a_distance(view, camera):
    tile = HeadSurface(view.registered).seen_by(camera)
    picture = error_picture(tile, np.full(len(view.distance), np.inf), ~view.is_measured, 0.5)
    seen = picture[(picture != 255).any(2)]
    assert (np.ptp(seen.astype(int), axis=1) < 20).all()
    assert seen.max() <= UNSEEN.max()


def test_the_overlay_is_blue_where_the_fit_lies_in_front(view, camera):
    scan, fit = HeadSurface(view.scan).seen_by(camera), HeadSurface(view.linear_fit).seen_by(camera)
    in_front, behind = overlay_picture(scan, fit), overlay_picture(fit, scan)
    middle = camera.height // 2, camera.width // 2
    assert int(in_front[middle][2]) - int(in_front[middle][0]) > 40
    assert int(behind[middle][2]) <= int(behind[middle][0])


def test_folded_triangles_are_red_on_the_grid(view, camera):
    tile = HeadSurface(view.registered).seen_by(camera)
    folded = np.ones(view.registered.n_faces, bool)
    picture = grid_picture(tile, view.rest, folded)[camera.height // 2, camera.width // 2]
    assert picture[0] > 200
    assert picture[1:].max() < 60
    assert len(np.unique(grid_picture(tile, view.rest, ~folded).reshape(-1, 3), axis=0)) > 20


def test_a_cloud_is_drawn_as_a_surface(view):
    cloud = Mesh(view.scan.vertices, np.zeros((0, 3), np.int64))
    page = _page(replace(view, scan=cloud), Similarity.identity())
    assert page.width > 5 * 128


def test_a_failure_is_told_with_and_without_a_picture():
    heading = Heading("s01/cube", "failed", ["no face in any of 60 views. " * 4], "no mesh", "render")
    bare = failure_picture(heading, [], tile_px=200)
    shown = failure_picture(heading, [np.zeros((64, 48, 3), np.uint8)], tile_px=200)
    assert shown.width > bare.width
    assert np.asarray(bare).min() < 100
