"""Pairs of points of two registered meshes: known deformations come back."""

import numpy as np
import pytest

from nphm_core.errors import SamplingError, TopologyError
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.supervision.sample_delta import DeltaPairs, read_delta_pairs, write_delta_samples


@pytest.fixture
def head(sphere):
    """A sphere of 0.4 canonical units in place of a head."""
    vertices, faces = sphere
    return vertices / MM_PER_CANONICAL_UNIT, faces


def trust(head) -> np.ndarray:
    return np.ones(len(head[0]))


def test_a_translation_gives_one_and_the_same_delta(head):
    vertices, faces = head
    shift = np.array([0.01, -0.02, 0.03])
    pairs = DeltaPairs(vertices, vertices + shift, faces, trust(head)).sample(2000, rng=np.random.default_rng(0))
    assert np.abs(pairs.posed - pairs.canonical - shift).max() < 1e-12


def test_a_rotation_turns_every_pair(head):
    vertices, faces = head
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    pairs = DeltaPairs(vertices, vertices @ turn.T, faces, trust(head)).sample(2000, rng=np.random.default_rng(0))
    assert np.abs(pairs.posed - pairs.canonical @ turn.T).max() < 1e-12


def test_the_offset_is_the_same_on_both_sides(head):
    vertices, faces = head
    pairs = DeltaPairs(vertices, 1.5 * vertices, faces, trust(head)).sample(4000, rng=np.random.default_rng(0))
    canonical, posed = (np.linalg.norm(side, axis=1) for side in (pairs.canonical, pairs.posed))
    # Radii 0.4 and 0.6 and one offset: their difference stays.
    assert np.abs(posed - canonical - 0.2).max() < 5e-4
    offset_mm = (canonical - 0.4) * MM_PER_CANONICAL_UNIT
    # Half with 2.5 mm, half with 0.5 mm.
    assert offset_mm.std() == pytest.approx(np.sqrt((2.5**2 + 0.5**2) / 2), rel=0.05)


def test_both_directions_have_their_half(head):
    vertices, faces = head
    upper = vertices[:, 1] > 0
    posed = np.where(upper[:, None], 3 * vertices, vertices)
    pairs = DeltaPairs(vertices, posed, faces, trust(head)).sample(20_000, rng=np.random.default_rng(0))
    # By area the upper half has 1/2 of the canonical mesh and about 9/10 of the posed one.
    assert (pairs.canonical[:, 1] > 0).mean() == pytest.approx(0.5 * (0.5 + 0.9), abs=0.02)


def test_untrusted_places_are_not_drawn_and_the_weight_is_told(head):
    vertices, faces = head
    weight = np.clip(vertices[:, 2] / 0.4, 0, 1)
    pairs = DeltaPairs(vertices, vertices, faces, weight).sample(5000, rng=np.random.default_rng(0))
    assert pairs.canonical[:, 2].min() > -0.01
    at_surface = pairs.canonical / np.linalg.norm(pairs.canonical, axis=1, keepdims=True)
    assert np.abs(pairs.weight - at_surface[:, 2]).max() < 0.02
    with pytest.raises(SamplingError, match="trusted"):
        DeltaPairs(vertices, vertices, faces, np.zeros(len(vertices)))


def test_the_generator_decides_the_pairs(head):
    vertices, faces = head
    source = DeltaPairs(vertices, 2 * vertices, faces, trust(head))
    one, same, other = (source.sample(50, rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one.posed == same.posed).all()
    assert not (one.posed == other.posed).all()


def test_a_file_gives_the_same_pairs_within_micrometres(head, tmp_path):
    vertices, faces = head
    posed = vertices * [1.1, 0.9, 1.0]
    path = tmp_path / "samples_delta.safetensors"
    write_delta_samples(path, vertices, posed, faces, trust(head), {"scan": "a/b"})
    pairs = read_delta_pairs(path, faces, len(vertices)).sample(3000, rng=np.random.default_rng(4), std_mm=(0.0,))
    error_mm = np.abs(pairs.posed - pairs.canonical * [1.1, 0.9, 1.0]) * MM_PER_CANONICAL_UNIT
    assert error_mm.max() < 0.004
    assert path.stat().st_size < 14 * len(vertices) + 2000


def test_a_region_stores_only_its_vertices(head, tmp_path):
    vertices, faces = head
    keep = vertices[:, 2] > 0
    whole, part = tmp_path / "whole", tmp_path / "part"
    write_delta_samples(whole, vertices, vertices, faces, trust(head), {})
    write_delta_samples(part, vertices, vertices, faces, trust(head), {}, keep=keep)
    assert part.stat().st_size < 0.7 * whole.stat().st_size
    pairs = read_delta_pairs(part, faces, len(vertices)).sample(1000, rng=np.random.default_rng(0))
    assert pairs.canonical[:, 2].min() > -0.01


def test_faces_of_another_topology_are_refused(head, tmp_path):
    vertices, faces = head
    path = tmp_path / "samples_delta.safetensors"
    write_delta_samples(path, vertices, vertices, faces, trust(head), {})
    with pytest.raises(TopologyError, match="topology"):
        read_delta_pairs(path, faces[::-1], len(vertices))


def test_without_a_canonical_mesh_the_file_says_why_it_gives_no_pairs(head, tmp_path):
    vertices, faces = head
    path = tmp_path / "samples_delta.safetensors"
    write_delta_samples(path, None, vertices, faces, trust(head), {})
    with pytest.raises(SamplingError, match="canonical neutral"):
        read_delta_pairs(path, faces, len(vertices))
