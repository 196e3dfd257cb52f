"""People of a corpus: determined by their names, plain twins, hair that stays, samples that are right."""

import numpy as np
import pytest

from nphm_core.config import SampleSdfConfig
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.seeds import rng_for
from nphm_core.synthetic.corpus import corpus_members, make_subject, source_of_map
from nphm_core.synthetic.corpus_folder import Corpus, make_corpus
from nphm_core.synthetic.person import draw_person

_FEW = SampleSdfConfig(n_surface=2000, n_near=1500, n_far=600)


def _make(source, name: str, variant="full", n_expressions: int = 3):
    return make_subject(source, name, variant, n_expressions=n_expressions, samples=_FEW)


@pytest.fixture(scope="module")
def hairy(toy_source):
    """A subject with hair."""
    names = (f"train-{i:04d}" for i in range(20))
    return next(s for s in (_make(toy_source, name) for name in names) if s.hair.any())


def test_a_subject_follows_from_its_name_alone(toy_source):
    first, again = _make(toy_source, "train-0001"), _make(toy_source, "train-0001")
    other = _make(toy_source, "train-0002")
    np.testing.assert_array_equal(first.skin, again.skin)
    np.testing.assert_array_equal(first.samples.near.sdf, again.samples.near.sdf)
    assert np.abs(first.skin[0] - other.skin[0]).max() > 0.004


def test_the_plain_twin_is_a_head_of_the_linear_model(toy_map, toy_template):
    source = source_of_map("toy", toy_template, toy_map, levels=0)
    plain = _make(source, "train-0001", "plain")
    person = draw_person(source.surface, "plain", 3, rng=rng_for(0, "corpus", "train-0001"))
    for row, name in enumerate(plain.expressions):
        c = source.surface.coefficients(person.subject, person.expressions[name])
        np.testing.assert_allclose(plain.skin[row], 4.0 * toy_map.model.posed(c), atol=1e-6)
    assert not plain.hair.any()


def test_twins_differ_by_warps_and_relief_of_millimetres(toy_source):
    full, plain = _make(toy_source, "train-0001"), _make(toy_source, "train-0001", "plain")
    assert full.expressions == plain.expressions
    face = toy_source.topology.regions["face"]
    apart_mm = 250 * np.linalg.norm(full.skin - plain.skin, axis=2)[:, face]
    assert 0.5 < apart_mm.mean() < 6.0
    assert apart_mm.max() < 25.0


def test_what_a_person_has_moves_with_the_skin(toy_source):
    full, plain = _make(toy_source, "train-0001"), _make(toy_source, "train-0001", "plain")
    own_mm = 250 * np.linalg.norm(full.skin - plain.skin, axis=2)
    # Turned by the jaw, not changed: the length stays, but where the toy's jaw shears its skin.
    assert np.quantile(np.abs(own_mm[0] - own_mm[1]), 0.99) < 0.5


def test_hair_is_on_the_scalp_and_stays_in_every_expression(toy_source, hairy):
    thickness_mm = 250 * np.linalg.norm(hairy.hair, axis=1)
    assert 1.0 < thickness_mm.max() <= 30.5
    assert thickness_mm[toy_source.surface.cover == 0].max() == 0
    for row in range(3):
        np.testing.assert_allclose(hairy.surface(row) - hairy.skin[row], hairy.hair, atol=1e-6)
    trust = hairy.trust(toy_source.topology)
    assert trust[thickness_mm > 4].max() <= 0.1
    assert (trust[toy_source.topology.regions["face"] & (thickness_mm == 0)] == 1).all()


def test_the_open_neutral_is_canonical(toy_source, hairy):
    assert hairy.expressions[:2] == ("neutral", "mouth-open")
    assert hairy.canonical == 1
    np.testing.assert_allclose(hairy.anchors, hairy.skin[1][toy_source.topology.anchors], atol=1e-6)


def test_samples_lie_on_the_surface_with_hair_and_distances_are_right(toy_source, hairy):
    surface = ClosestPoints(hairy.surface(1), toy_source.topology.faces)
    on = np.concatenate([hairy.samples.face.position, hairy.samples.rest.position])
    assert surface.query(on).distance.max() < 1e-6
    for group in (hairy.samples.near, hairy.samples.far):
        distance = surface.query(group.position).distance
        np.testing.assert_allclose(np.abs(group.sdf)[group.trusted], distance[group.trusted], atol=1e-6)
    far = hairy.samples.far
    assert (far.sdf[far.trusted & (np.linalg.norm(far.position, axis=1) < 0.12)] < 0).all()
    assert hairy.throats[1].keeps(on).mean() > 0.999


def test_an_observation_is_of_the_named_expression(toy_source, hairy):
    seen = hairy.observation(2, toy_source.topology, noise_mm=0.0)
    assert ClosestPoints(hairy.surface(2), toy_source.topology.faces).query(seen.points).distance.max() < 1e-4
    again = hairy.observation(2, toy_source.topology, noise_mm=0.0)
    np.testing.assert_array_equal(seen.points, again.points)


def test_a_perfect_scan_shows_no_hidden_triangle(toy_source, hairy):
    scan = hairy.scan_mm(0, toy_source.topology)
    assert 0.5 * len(toy_source.topology.faces) < scan.n_faces < len(toy_source.topology.faces)


def test_members_alternate_between_sources_and_stay_when_more_are_added():
    small, large = (corpus_members(["a", "b"], n, 4) for n in (6, 10))
    assert [m.name for m in large[:6]] == [m.name for m in small[:6]]
    assert small[:6] == large[:6]
    assert small[6:] == large[10:]
    assert sum(m.source == "a" for m in small) == 5
    assert sum(m.is_test for m in small) == 4


def test_a_corpus_in_a_folder_is_what_was_made(tmp_path, toy_source):
    members = corpus_members(["toy"], 2, 1)
    corpus = make_corpus(tmp_path / "one", [toy_source], members, "full", n_expressions=3, samples=_FEW)
    assert (corpus.train, corpus.test) == (("train-0000", "train-0001"), ("test-0000",))
    made, read = _make(toy_source, "train-0001"), Corpus(tmp_path / "one").subject("train-0001", with_samples=True)
    assert (read.name, read.source, read.variant, read.expressions) == ("train-0001", "toy", "full", made.expressions)
    # Half a step of the box that holds the head.
    assert 250_000 * np.abs(made.skin - read.skin).max() < 3.0
    np.testing.assert_allclose(made.hair, read.hair, atol=1e-4)
    np.testing.assert_allclose(made.anchors, read.anchors, atol=1e-6)
    np.testing.assert_allclose(made.samples.near.sdf, read.samples.near.sdf, atol=1e-4)
    np.testing.assert_array_equal(corpus.topology.faces, toy_source.topology.faces)


def test_many_processes_make_the_same_files(tmp_path, toy_source):
    members = corpus_members(["toy"], 2, 1)
    for name, n in (("one", 1), ("two", 2)):
        make_corpus(tmp_path / name, [toy_source], members, "plain", n_expressions=2, samples=_FEW, n_processes=n)
    for path in sorted((tmp_path / "one").glob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
