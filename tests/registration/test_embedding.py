import numpy as np
import pytest

from nphm_core.registration.embedding import learn_landmark_embedding, mirrored_landmarks
from nphm_core.registration.face_detector import CONTOUR


def test_mirrored_landmarks_are_found_from_several_pictures():
    rng = np.random.default_rng(0)
    left = rng.uniform([20, -150], [150, 150], (6, 20, 2))
    middle = np.stack([np.zeros((6, 3)), rng.uniform(-150, 150, (6, 3))], axis=2)
    noise = rng.normal(0, 0.5, (6, 43, 2))
    partner = mirrored_landmarks(np.concatenate([left, left * [-1, 1], middle], axis=1) + noise)
    np.testing.assert_array_equal(partner, [*range(20, 40), *range(20), 40, 41, 42])


def test_a_landmark_without_a_mirror_image_has_no_partner():
    pictures = np.tile(np.array([[100.0, 0.0], [-100.0, 0.0], [60.0, 90.0], [-60.0, -90.0]]), (3, 1, 1))
    np.testing.assert_array_equal(mirrored_landmarks(pictures), [1, 0, -1, -1])


@pytest.mark.slow
def test_the_embedding_agrees_with_one_learnt_elsewhere(shared_dir):
    from nphm_core.template.read import read_head_model

    model = read_head_model(str(shared_dir / "heads" / "ict_flame_format_10kF_fp16.npz"))
    embedding = learn_landmark_embedding(model, rng=np.random.default_rng(0), n_identities=5)
    other = np.load(shared_dir / "heads" / "ict_mediapipe478_embedding.npz")
    used = embedding.weight > 0
    assert used.sum() > 300
    assert not np.isin(CONTOUR, embedding.index[used]).any()
    points = embedding.points(model.v_template, model.faces)[used] * 1000
    corners = model.v_template[model.faces[other["10kF_face"]]] * 1000
    reference = np.einsum("nk,nkc->nc", other["10kF_bary"].astype(float), corners)[embedding.index[used]]
    steady = other["spread_mm"][embedding.index[used]] < 3
    off_mm = np.linalg.norm(points - reference, axis=1)[steady]
    # Theirs comes from painted faces, whose brows lie some 7 mm higher; the rest agrees.
    assert np.median(off_mm) < 2.0
    assert np.quantile(off_mm, 0.8) < 4.0
    mirrored = {int(i): p for i, p in zip(embedding.index[used], points, strict=True)}
    for left, right in ((263, 33), (362, 133), (291, 61), (327, 98)):
        np.testing.assert_allclose(mirrored[left], mirrored[right] * [-1, 1, 1], atol=1.0)
