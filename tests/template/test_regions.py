"""Visibility, regions and anchors."""

import numpy as np
import pytest

from nphm_core.errors import TemplateError
from nphm_core.template.anchors import find_anchors, mean_anchors
from nphm_core.template.build import build_template
from nphm_core.template.model import FLAME_JOINTS, HeadModel
from nphm_core.template.read import read_head_model
from nphm_core.template.regions import _outliers, find_regions
from nphm_core.template.symmetry import mirrored_pairs
from nphm_core.template.template import LandmarkEmbedding
from nphm_core.template.visibility import open_share, sphere_directions


def _sphere(radius, n=600):
    from scipy.spatial import ConvexHull

    points = sphere_directions(n)
    faces = ConvexHull(points).simplices.astype(np.int64)
    corners = points[faces]
    inward = (
        np.einsum("nd,nd->n", np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), corners[:, 0]) < 0
    )
    faces[inward] = faces[inward][:, ::-1]
    return radius * points, faces


def test_a_sphere_within_a_sphere_is_hidden():
    outer, faces = _sphere(1.0)
    inner, _ = _sphere(0.5)
    share = open_share(np.concatenate([outer, inner]), np.concatenate([faces, faces + len(outer)]))
    assert share[: len(outer)].min() > 0.99
    assert share[len(outer) :].max() == 0


def test_what_stands_out_of_a_smooth_surface_is_measured():
    directions = sphere_directions(2000)
    radius = 0.09 + 0.01 * directions[:, 1]
    bump = directions @ [1.0, 0.0, 0.0] > 0.97
    radius[bump] += 0.012
    outward = _outliers(directions, radius)
    assert np.abs(outward[~bump]).max() < 5e-4
    assert np.abs(outward[bump] - 0.012).max() < 5e-4


def _cloud_model(vertices, faces) -> HeadModel:
    n = len(vertices)
    return HeadModel(
        v_template=vertices,
        faces=faces,
        shapedirs_identity=np.zeros((n, 3, 1), np.float32),
        shapedirs_expression=np.zeros((n, 3, 1), np.float32),
        weights=np.eye(5)[np.zeros(n, int)],
        parents=(-1, 0, 1, 1, 1),
        joint_names=FLAME_JOINTS,
        joints=np.zeros((5, 3)),
        joints_identity=np.zeros((5, 3, 1)),
    )


def test_anchors_find_the_mean_anchors_after_a_similarity():
    # Vertices are the mean anchors themselves, moved: the answer is their own numbers.
    means = mean_anchors()
    vertices = 0.21 * means + [0.0, 0.02, -0.03]
    landmark_of = {0: 61, 1: 291, 10: 133, 11: 362, 12: 33, 13: 263, 33: 4}
    corners = np.array(list(landmark_of))
    faces = np.stack([corners, corners, corners], axis=1)
    embedding = LandmarkEmbedding(
        np.array(list(landmark_of.values())), np.arange(7), np.eye(3)[np.zeros(7, int)], np.ones(7), np.ones(7)
    )
    model = _cloud_model(vertices, faces)
    found = find_anchors(model, embedding, np.ones(39, bool), mirrored_pairs(vertices))
    assert np.array_equal(found, np.arange(39))


def test_anchors_without_landmarks_are_refused():
    model = _cloud_model(mean_anchors(), np.zeros((1, 3), np.int64))
    with pytest.raises(TemplateError, match="landmarks that place the anchors"):
        find_anchors(model, LandmarkEmbedding.empty(), np.ones(39, bool), mirrored_pairs(mean_anchors()))


def test_regions_without_landmarks_are_refused(embedded_model):
    with pytest.raises(TemplateError, match="lacks"):
        find_regions(embedded_model, LandmarkEmbedding.empty())


@pytest.fixture(scope="module")
def shared_template(shared_dir):
    """A template of the shared head model, with the landmark embedding that came with it."""
    model = read_head_model(str(shared_dir / "heads" / "ict_flame_format_fp16.npz"))
    with np.load(shared_dir / "heads" / "ict_mediapipe478_embedding.npz") as data:
        known = data["count"] > 0
        embedding = LandmarkEmbedding(
            np.flatnonzero(known),
            data["full_face"][known].astype(np.int64),
            data["full_bary"][known].astype(np.float64),
            data["spread_mm"][known].astype(np.float64),
            np.ones(int(known.sum())),
        )
    return build_template(model, embedding)


def test_regions_divide_the_skin_that_can_be_seen(shared_template):
    regions = shared_template.regions
    parts = sum(regions[name].astype(int) for name in ("face", "ears", "scalp", "neck"))
    assert parts.max() == 1
    assert not (regions["lips_upper_rim"] & regions["lips_lower_rim"]).any()
    assert not (regions["face"] & regions["eyeballs"]).any()
    assert np.array_equal(regions["face"], regions["face"][shared_template.pairs])


def test_regions_lie_where_a_face_has_them(shared_template):
    t = shared_template
    centre = {name: t.model.v_template[mask].mean(axis=0) for name, mask in t.regions.items()}
    assert centre["neck"][1] < centre["lips_lower_rim"][1] < centre["lips_upper_rim"][1] < centre["eyelids"][1]
    assert centre["eyelids"][1] < centre["scalp"][1]
    assert centre["face"][2] > centre["ears"][2] > centre["scalp"][2] - 0.05
    assert np.abs(t.model.v_template[t.regions["ears"], 0]).min() > 0.05
    # The shared model's own 68 landmarks: inner lips touch the rims, the nose is face.
    face, weights = t.model.landmarks68
    nose = t.faces[face[27:36]][np.arange(9), weights[27:36].argmax(axis=1)]
    assert t.regions["face"][nose].all()


def test_jaw_parts_the_two_rims_of_the_lips(shared_template):
    t = shared_template
    opened = t.model.pose(rotations={"jaw": np.array([0.3, 0, 0])}) - t.model.v_template
    assert opened[t.regions["lips_lower_rim"], 1].max() < opened[t.regions["lips_upper_rim"], 1].min() + 1e-4


def test_anchors_lie_near_those_transferred_by_hand(shared_template, shared_dir):
    with np.load(shared_dir / "heads" / "ict_nphm39_anchors.npz") as data:
        reference = data["anchor_vertex_full"]
    vertices = shared_template.model.v_template
    distance = np.linalg.norm(vertices[shared_template.anchors] - vertices[reference], axis=1)
    assert np.median(distance) < 0.006
    assert distance.max() < 0.03  # back of the head and shoulders, where nothing fixes them
    assert np.array_equal(shared_template.pairs[shared_template.anchors[:32:2]], shared_template.anchors[1:32:2])
