"""A ball seen by the sensor comes back as a ball; what no view sees stays open."""

import numpy as np

from nphm_core.geometry.mesh import face_normals, unique_edges
from nphm_core.synthetic.fusion import fuse_views
from nphm_core.synthetic.sensor import SensorSettings, scan_views

RADIUS_MM = 60.0
PERFECT = SensorSettings(
    pixels=200, noise_mm=0.0, drift_mm=0.0, calibration_mm=0.0, dropout_share=0.0, hair_dropout_share=0.0
)


def fused(ball, settings=PERFECT, dark=0.0, seed=0, voxel_mm=2.0):
    vertices, faces = RADIUS_MM * ball[0], ball[1]
    rng = np.random.default_rng(seed)
    return fuse_views(scan_views(vertices, faces, np.full(len(vertices), dark), settings, rng=rng), voxel_mm=voxel_mm)


def test_a_perfect_sensor_gives_the_ball_back(ball):
    vertices, _ = fused(ball)
    error = np.linalg.norm(vertices, axis=1) - RADIUS_MM
    assert np.median(np.abs(error)) < 0.03
    assert np.quantile(np.abs(error), 0.95) < 0.15


def test_triangles_look_outwards_and_meet_properly(ball):
    vertices, faces = fused(ball)
    normals, areas = face_normals(vertices, faces)
    centres = vertices[faces].mean(1)
    agreement = (normals * centres).sum(1) / np.linalg.norm(centres, axis=1)
    assert (agreement[areas > 0] > 0.5).mean() > 0.995
    _, count = unique_edges(faces)
    assert (count <= 2).mean() > 0.999


def test_what_no_station_sees_stays_open(ball):
    vertices, faces = fused(ball)
    _, count = unique_edges(faces)
    assert (count == 1).sum() > 20
    # No station looks up from below.
    assert vertices[:, 1].min() > -0.99 * RADIUS_MM
    assert vertices[:, 1].max() > 0.99 * RADIUS_MM


def test_noise_shows_in_the_surface(ball):
    clean, _ = fused(ball)
    noisy, _ = fused(ball, SensorSettings(pixels=200, noise_mm=0.4))
    rough = [np.std(np.linalg.norm(v, axis=1)) for v in (clean, noisy)]
    assert rough[1] > 2 * rough[0]
    assert rough[1] < 0.6


def test_dark_surfaces_have_more_holes(ball):
    settings = SensorSettings(pixels=200)
    bright, dark = (len(fused(ball, settings, dark=d)[1]) for d in (0.0, 1.0))
    assert dark < 0.98 * bright


def test_a_finer_grid_gives_more_triangles(ball):
    coarse, fine = (len(fused(ball, voxel_mm=v)[1]) for v in (4.0, 2.0))
    assert 3 < fine / coarse < 5
