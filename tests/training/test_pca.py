"""Principal components of shapes made by a known linear model are that model."""

import numpy as np
import pytest

from nphm_core.config import TrainBaselinesConfig
from nphm_core.errors import TrainingError
from nphm_core.training.pca import ShapeTable, principal_components, train_linear_head

N_VERTICES, N_SHAPES, N_MODES = 400, 60, 4


def orthonormal(n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((3 * n, k)))[0].T.reshape(k, n, 3)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.fixture
def modes(rng) -> np.ndarray:
    return orthonormal(N_VERTICES, N_MODES, rng) * np.array([4.0, 3.0, 2.0, 1.0])[:, None, None]


def whitened_codes(n: int, rng: np.random.Generator) -> np.ndarray:
    codes = rng.standard_normal((n, N_MODES))
    codes -= codes.mean(0)
    u, _, _ = np.linalg.svd(codes, full_matrices=False)
    return u * np.sqrt(n - 1)


def largest_angle_rad(basis: np.ndarray, modes: np.ndarray) -> float:
    """Largest principal angle between the spaces of two bases."""
    a = np.linalg.qr(basis.reshape(-1, basis.shape[2]).astype(float))[0]
    b = np.linalg.qr(modes.reshape(len(modes), -1).T)[0]
    return float(np.arcsin(np.clip(np.linalg.norm(b - a @ (a.T @ b), 2), 0, 1)))


def even(n: int = N_VERTICES) -> np.ndarray:
    return np.ones(n)


def test_components_of_a_linear_model_are_that_model(rng, modes):
    codes, mean = whitened_codes(N_SHAPES, rng), rng.standard_normal((N_VERTICES, 3))
    found = principal_components(ShapeTable.of_arrays(mean + np.einsum("sk,knd->snd", codes, modes)), even(), 20)
    assert found.basis.shape[2] == N_MODES
    assert np.abs(found.mean - mean).max() < 1e-5
    assert largest_angle_rad(found.basis, modes) < 1e-5
    # Codes are whitened, so the components are the modes themselves, up to the sign.
    agreement = np.einsum("ndk,knd->k", found.basis, modes) / (modes**2).sum((1, 2))
    assert np.abs(np.abs(agreement) - 1).max() < 1e-4
    assert np.abs(np.cov(found.codes.T) - np.eye(N_MODES)).max() < 1e-4
    assert found.variance_share.sum() == pytest.approx(1, abs=1e-5)


def test_no_more_components_than_asked_for_and_the_strongest_first(rng, modes):
    codes = whitened_codes(N_SHAPES, rng)
    found = principal_components(ShapeTable.of_arrays(np.einsum("sk,knd->snd", codes, modes)), even(), 2)
    assert found.basis.shape[2] == 2
    assert largest_angle_rad(found.basis, modes[:2]) < 1e-4
    assert np.allclose((found.basis**2).sum((0, 1)), [16, 9], rtol=1e-3)
    assert found.variance_share.sum() == pytest.approx(25 / 30, abs=1e-4)


def test_components_do_not_depend_on_how_the_vertices_are_read(rng, modes, monkeypatch):
    shapes = np.einsum("sk,knd->snd", whitened_codes(N_SHAPES, rng), modes)
    trust = rng.uniform(0, 1, shapes.shape[:2])
    whole = principal_components(ShapeTable.of_arrays(shapes, trust), even(), 3)
    monkeypatch.setattr("nphm_core.training.pca._BLOCK_BYTES", 12 * N_SHAPES * 17)
    parts = principal_components(ShapeTable.of_arrays(shapes, trust), even(), 3)
    assert np.abs(whole.basis - parts.basis).max() < 1e-4
    assert np.abs(whole.codes - parts.codes).max() < 1e-3


def test_the_same_shapes_give_the_same_bits(rng, modes):
    table = ShapeTable.of_arrays(np.einsum("sk,knd->snd", whitened_codes(N_SHAPES, rng), modes))
    first, second = (principal_components(table, even(), 3) for _ in range(2))
    assert np.array_equal(first.basis, second.basis)


def test_displacements_keep_rest_at_zero_and_codes_are_whitened_with_the_resting_shapes(rng, modes):
    codes = whitened_codes(N_SHAPES, rng) + np.array([3.0, 0, 0, 0])
    shapes = np.einsum("sk,knd->snd", codes, modes)
    found = principal_components(ShapeTable.of_arrays(shapes), even(), 10, n_at_rest=20)
    assert not found.mean.any()
    assert np.abs(np.einsum("ndk,sk->snd", found.basis, found.codes) - shapes).max() < 1e-4
    everyone = np.concatenate([found.codes, np.zeros((20, N_MODES))])
    assert np.abs(everyone.mean(0) - found.code_mean).max() < 1e-4
    assert np.abs(np.cov(everyone.T) - np.eye(N_MODES)).max() < 1e-3


def test_untrusted_positions_are_filled_from_the_rest(rng, modes):
    codes, mean = whitened_codes(N_SHAPES, rng), rng.standard_normal((N_VERTICES, 3))
    shapes = mean + np.einsum("sk,knd->snd", codes, modes)
    trust = np.ones(shapes.shape[:2])
    spoilt = shapes.copy()
    for shape in range(N_SHAPES):
        gap = rng.choice(N_VERTICES, N_VERTICES // 8, replace=False)
        trust[shape, gap], spoilt[shape, gap] = 0, spoilt[shape, gap] + 0.3 * rng.standard_normal((len(gap), 3))
    area = even()
    with_trust = principal_components(ShapeTable.of_arrays(spoilt, trust), area, N_MODES)
    without = principal_components(ShapeTable.of_arrays(spoilt), area, N_MODES)
    wrong_with, wrong_without = largest_angle_rad(with_trust.basis, modes), largest_angle_rad(without.basis, modes)
    assert wrong_with < 0.3 * wrong_without


def test_vertices_that_nobody_trusts_follow_their_registrations(rng, modes):
    shapes = np.einsum("sk,knd->snd", whitened_codes(N_SHAPES, rng), modes)
    trust = np.ones(shapes.shape[:2])
    trust[:, :50] = 0
    found = principal_components(ShapeTable.of_arrays(shapes, trust), even(), N_MODES)
    assert largest_angle_rad(found.basis, modes) < 1e-3


def test_a_vertex_counts_by_its_area(rng, modes):
    shapes = np.einsum("sk,knd->snd", whitened_codes(N_SHAPES, rng), modes)
    # The same surface with the first half's vertices ten times as dense.
    dense = np.concatenate([np.repeat(shapes[:, :200], 10, axis=1), shapes[:, 200:]], axis=1)
    area = np.concatenate([np.full(2000, 0.1), np.ones(200)])
    plain = principal_components(ShapeTable.of_arrays(shapes), even(), 2)
    found = principal_components(ShapeTable.of_arrays(dense), area, 2)
    assert np.abs(found.codes - plain.codes).max() < 1e-3


def test_one_subject_is_no_linear_model():
    with pytest.raises(TrainingError, match="at least two subjects"):
        principal_components(ShapeTable.of_arrays(np.zeros((1, 5, 3))), even(5), 3)


def test_a_trained_head_reproduces_its_training_scans(rng):
    identity, expression = orthonormal(50, 2, rng), orthonormal(50, 2, rng)
    z, e, mean = rng.standard_normal((6, 2)), rng.standard_normal((12, 2)), rng.standard_normal((50, 3))
    neutral = mean + np.einsum("sk,knd->snd", z, identity)
    shift = np.einsum("sk,knd->snd", e, expression)
    faces = np.stack([np.arange(48), np.arange(1, 49), np.arange(2, 50)], axis=1)
    head = train_linear_head(
        ShapeTable.of_arrays(neutral),
        ShapeTable.of_arrays(shift),
        faces,
        TrainBaselinesConfig(pca_identity=10, pca_expression=5),
        subjects=tuple("abcdef"),
        scans=tuple(f"{s}/{x}" for s in "abcdef" for x in "12"),
        anchors=np.arange(3),
        visible=np.ones(50, bool),
        template_hash="0" * 64,
    )
    assert (head.n_identity, head.n_expression) == (2, 2)
    posed = head.posed(head.identity_codes[3], head.expression_codes[7])
    assert np.abs(posed - (neutral[3] + shift[7])).max() < 1e-5
    assert np.abs(head.posed(head.identity_codes[3], np.zeros(2, "f4")) - neutral[3]).max() < 1e-5


def test_a_head_without_expressions_can_be_trained(rng):
    faces = np.array([[0, 1, 2], [1, 2, 3]])
    head = train_linear_head(
        ShapeTable.of_arrays(rng.standard_normal((5, 4, 3))),
        ShapeTable.of_arrays(np.zeros((0, 4, 3))),
        faces,
        TrainBaselinesConfig(),
        subjects=tuple("abcde"),
        scans=(),
        anchors=np.zeros(0, np.int64),
        visible=np.ones(4, bool),
        template_hash="",
    )
    assert head.n_expression == 0
    assert head.posed(np.zeros(head.n_identity), np.zeros(0)).shape == (4, 3)
