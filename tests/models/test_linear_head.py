"""The linear head model: its sum of components, and its checkpoint folder."""

import dataclasses

import numpy as np
import pytest

from nphm_core.errors import CheckpointError
from nphm_core.io.files import read_json, write_json
from nphm_core.models.linear_head import LinearHead, read_linear_head, write_linear_head


def small_head() -> LinearHead:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return LinearHead(
        mean=draw(4, 3),
        identity_basis=draw(4, 3, 2),
        expression_basis=draw(4, 3, 3),
        expression_mean=draw(3),
        faces=np.array([[0, 1, 2], [1, 3, 2]]),
        anchors=np.array([3, 0]),
        visible=np.array([True, True, False, True]),
        template_hash="ab" * 32,
        subjects=("a", "b"),
        scans=("a/smile",),
        identity_codes=draw(2, 2),
        expression_codes=draw(1, 3),
        facts={"seed": 1},
    )


def test_posed_vertices_are_the_mean_and_the_weighted_components():
    head = small_head()
    z, e = np.array([1.0, -2.0]), np.array([0.5, 0.0, 3.0])
    expected = head.mean + 1 * head.identity_basis[..., 0] - 2 * head.identity_basis[..., 1]
    assert np.abs(head.canonical(z) - expected).max() < 1e-6
    expected = expected + 0.5 * head.expression_basis[..., 0] + 3 * head.expression_basis[..., 2]
    assert np.abs(head.posed(z, e) - expected).max() < 1e-5


def test_drawn_codes_have_the_prior_mean_and_unit_variance():
    head, rng = small_head(), np.random.default_rng(2)
    drawn = [head.draw_codes(rng=rng) for _ in range(4000)]
    identity, expression = np.stack([z for z, _ in drawn]), np.stack([e for _, e in drawn])
    assert np.abs(identity.mean(0)).max() < 0.1
    assert np.abs(expression.mean(0) - head.expression_mean).max() < 0.1
    assert np.abs(expression.std(0) - 1).max() < 0.1


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    head = small_head()
    write_linear_head(tmp_path / "pca", head, {"licence": "CC0"})
    back = read_linear_head(tmp_path / "pca", template_hash=head.template_hash)
    for item in dataclasses.fields(LinearHead):
        ours, theirs = getattr(head, item.name), getattr(back, item.name)
        if isinstance(ours, np.ndarray):
            assert np.array_equal(ours, theirs), item.name
            assert ours.dtype == theirs.dtype, item.name
        elif item.name != "facts":
            assert ours == theirs
    assert back.facts == {"seed": 1, "licence": "CC0"}


def test_the_same_head_gives_the_same_files(tmp_path):
    for name in ("first", "second"):
        write_linear_head(tmp_path / name, small_head(), {})
    for file in ("config.json", "model.safetensors", "README.md"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_a_checkpoint_of_another_template_is_refused_by_its_hash(tmp_path):
    write_linear_head(tmp_path, small_head(), {})
    with pytest.raises(CheckpointError, match="belongs to the template abababab; expected cdcdcdcd"):
        read_linear_head(tmp_path, template_hash="cd" * 32)


def test_a_checkpoint_of_another_kind_is_refused(tmp_path):
    write_linear_head(tmp_path, small_head(), {})
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", config | {"kind": "nphm"})
    with pytest.raises(CheckpointError, match="of kind nphm"):
        read_linear_head(tmp_path)


def test_weights_of_another_topology_are_refused(tmp_path):
    write_linear_head(tmp_path / "one", small_head(), {})
    other = dataclasses.replace(small_head(), faces=np.array([[0, 1, 2], [1, 2, 3]]))
    write_linear_head(tmp_path / "other", other, {})
    (tmp_path / "one" / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="do not belong to their config"):
        read_linear_head(tmp_path / "one")


def test_an_unfinished_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        read_linear_head(tmp_path)
