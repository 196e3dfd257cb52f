"""Samples of a sphere, whose signed distance is known; trust near a hole; files and their blocks."""

import numpy as np
import pytest

from nphm_core.config import SampleSdfConfig
from nphm_core.errors import SamplingError
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, Similarity
from nphm_core.supervision.sample_file import SdfSampleReader, write_sdf_samples
from nphm_core.supervision.sample_sdf import sample_sdf, signed_distances
from nphm_core.supervision.samples import ClosedScan, Plane

SETTINGS = SampleSdfConfig(n_surface=8000, n_near=8000, n_far=3000)
UPRIGHT = Similarity(1 / MM_PER_CANONICAL_UNIT, np.eye(3), np.zeros(3))
FRONT = np.array([[0.0, 0.0, 100.0]])
# The triangles lie inside the true sphere by their sagitta.
FACETS_MM = 0.08


def closed(sphere, fill_below_y: float | None = None) -> ClosedScan:
    vertices, faces = sphere
    if fill_below_y is None:
        return ClosedScan(vertices, faces, len(faces))
    fill = vertices[faces][:, :, 1].mean(1) < fill_below_y
    return ClosedScan(vertices, np.concatenate([faces[~fill], faces[fill]]), int((~fill).sum()))


def draw(scan, transform=UPRIGHT, throat=None, seed=0, settings=SETTINGS):
    return sample_sdf(scan, FRONT, throat, transform, settings, rng=np.random.default_rng(seed))


def test_distances_to_a_sphere_are_known(sphere):
    samples = draw(closed(sphere))
    for group in (samples.near, samples.far):
        radius_mm = np.linalg.norm(group.position, axis=1) * MM_PER_CANONICAL_UNIT
        error_mm = group.sdf * MM_PER_CANONICAL_UNIT - (radius_mm - 100.0)
        assert np.abs(error_mm).max() < FACETS_MM
        assert group.trusted.mean() > 0.99


def test_surface_points_lie_on_the_sphere_with_its_normals(sphere):
    samples = draw(closed(sphere))
    for group in (samples.face, samples.rest):
        radius_mm = np.linalg.norm(group.position, axis=1) * MM_PER_CANONICAL_UNIT
        assert np.abs(radius_mm - 100).max() < FACETS_MM
        outward = group.position / np.linalg.norm(group.position, axis=1, keepdims=True)
        # Interpolated normals are far closer than the facets' own, which are off by up to 0.9 degrees.
        assert np.degrees(np.arccos(np.clip((outward * group.normal).sum(1), -1, 1))).max() < 0.5
    assert len(samples.face.position) + len(samples.rest.position) == SETTINGS.n_surface


def test_face_and_rest_are_split_by_distance_to_the_face(sphere):
    samples = draw(closed(sphere))
    for group, is_face in ((samples.face, True), (samples.rest, False)):
        gap_mm = np.linalg.norm(group.position * MM_PER_CANONICAL_UNIT - FRONT, axis=1)
        # The split looks at cells of 2 mm.
        limit = SETTINGS.face_distance_mm + (2 if is_face else -2)
        assert (gap_mm < limit).all() if is_face else (gap_mm > limit).all()


def test_the_near_points_have_the_stated_spread(sphere):
    settings = SampleSdfConfig(n_surface=10, n_near=20_000, n_far=0, near_std_mm=(2.0,))
    near = draw(closed(sphere), settings=settings).near
    assert (near.sdf * MM_PER_CANONICAL_UNIT).std() == pytest.approx(2.0, rel=0.03)


def test_far_points_fill_the_ball_evenly(sphere):
    far = draw(closed(sphere)).far
    radius_mm = np.linalg.norm(far.position, axis=1) * MM_PER_CANONICAL_UNIT
    assert radius_mm.max() <= SETTINGS.far_radius_mm
    # A uniform ball has half of its points within 0.5^(1/3) of its radius.
    assert np.median(radius_mm) == pytest.approx(0.5 ** (1 / 3) * SETTINGS.far_radius_mm, rel=0.02)


def test_head_pose_and_scale_are_removed(sphere):
    vertices, faces = sphere
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    T_metric_canonical = Similarity(MM_PER_CANONICAL_UNIT * 1.05, turn, np.array([30.0, -500.0, 12.0]))
    moved = T_metric_canonical.apply(vertices / MM_PER_CANONICAL_UNIT)
    samples = sample_sdf(
        ClosedScan(moved, faces, len(faces)),
        T_metric_canonical.apply(FRONT / MM_PER_CANONICAL_UNIT),
        None,
        T_metric_canonical.inverse(),
        SETTINGS,
        rng=np.random.default_rng(0),
    )
    radius = np.linalg.norm(samples.far.position, axis=1)
    assert np.abs(samples.far.sdf - (radius - 0.4)).max() < FACETS_MM / MM_PER_CANONICAL_UNIT
    assert (samples.face.position[:, 2] > 0.2).all()


def test_fills_are_never_sampled_and_distances_to_them_never_trusted(sphere):
    scan = closed(sphere, fill_below_y=-60.0)
    samples = draw(scan)
    for group in (samples.face, samples.rest):
        assert (group.position[:, 1] * MM_PER_CANONICAL_UNIT > -63).all()
    below = samples.far.position[:, 1] / np.linalg.norm(samples.far.position, axis=1) < -0.65
    above = samples.far.position[:, 1] / np.linalg.norm(samples.far.position, axis=1) > -0.55
    assert below.sum() > 100
    assert not samples.far.trusted[below].any()
    assert samples.far.trusted[above].mean() > 0.99


def test_near_an_open_hole_the_sign_is_not_trusted(sphere):
    vertices, faces = sphere
    open_faces = faces[vertices[faces][:, :, 1].mean(1) >= -60.0]
    scan = ClosedScan(vertices, open_faces, len(open_faces))
    in_the_hole, opposite = np.array([[0, -62.0, 0], [10, -70.0, 5]]), np.array([[0, 95.0, 0], [0, 105.0, 0]])
    sdf, trusted = signed_distances(scan, np.concatenate([in_the_hole, opposite]), 0.2)
    assert trusted.tolist() == [False, False, True, True]
    assert sdf[2] == pytest.approx(-5, abs=FACETS_MM)
    assert sdf[3] == pytest.approx(5, abs=FACETS_MM)


def test_the_throat_cut_takes_surface_and_far_points(sphere):
    throat = Plane(np.array([0.0, -20.0, 0.0]), np.array([0.0, 1.0, 0.0]))
    samples = draw(closed(sphere), throat=throat)
    for group in (samples.face, samples.rest, samples.far):
        assert (group.position[:, 1] * MM_PER_CANONICAL_UNIT > -20).all()
    assert len(samples.far.sdf) == SETTINGS.n_far
    with pytest.raises(SamplingError, match="throat"):
        draw(closed(sphere), throat=Plane(np.array([0.0, 500.0, 0.0]), np.array([0.0, 1.0, 0.0])))


def test_a_file_gives_back_what_was_drawn_and_is_small(sphere, tmp_path):
    samples = draw(closed(sphere))
    path = tmp_path / "samples_sdf.safetensors"
    write_sdf_samples(path, samples, {"scan": "a/b", "seed": 3})
    reader = SdfSampleReader(path)
    assert reader.facts["seed"] == 3
    assert reader.facts["space"] == "canonical"
    position, normal = reader.surface("face", 0, reader.count("face"))
    assert np.abs(position - samples.face.position).max() <= reader.position_error().max() + 1e-7
    assert (normal * samples.face.normal).sum(1).min() > 0.999
    for name in ("near", "far"):
        group = getattr(samples, name)
        position, sdf, trusted = reader.distances(name, 0, reader.count(name))
        assert np.abs(sdf - group.sdf).max() <= 0.5 * reader.facts["sdf_step"][name] + 1e-7
        assert (trusted == group.trusted).all()
    per_sample = path.stat().st_size / (SETTINGS.n_surface + SETTINGS.n_near + SETTINGS.n_far)
    # With the default numbers of samples: 4 MB a scan, at most 10 are allowed.
    assert per_sample < 9.5


def test_blocks_go_round_and_are_random_draws(sphere, tmp_path):
    path = tmp_path / "samples_sdf.safetensors"
    write_sdf_samples(path, draw(closed(sphere)), {})
    reader = SdfSampleReader(path)
    n = reader.count("rest")
    whole, _ = reader.surface("rest", 0, n)
    block, _ = reader.surface("rest", n - 10, 30)
    assert (block == np.concatenate([whole[-10:], whole[:20]])).all()
    # The first block covers the sphere like all of it: rows are not in the order of the triangles.
    assert np.abs(whole[:1000].mean(0) - whole.mean(0)).max() < 0.04


def test_the_seed_decides_every_byte(sphere, tmp_path):
    paths = [tmp_path / name for name in ("one", "same", "other")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        write_sdf_samples(path, draw(closed(sphere), seed=seed), {"seed": 1})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes() != paths[2].read_bytes()


def test_another_file_is_refused_in_words(tmp_path):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"no header here, only a sentence")
    with pytest.raises(SamplingError, match="sample file"):
        SdfSampleReader(path)
