"""A toy head: an ellipsoid with a nose, a few identity and expression components, a neck and a jaw."""

import numpy as np
import pytest

from nphm_core.template.model import HeadModel
from nphm_core.template.template import LandmarkEmbedding, Template, bare_template


def _sphere(n_levels: int) -> tuple[np.ndarray, np.ndarray]:
    from nphm_core.geometry.subdivision import loop_subdivision

    t = (1 + 5**0.5) / 2
    corners = np.array(
        [[-1, t, 0], [1, t, 0], [-1, -t, 0], [1, -t, 0], [0, -1, t], [0, 1, t]]
        + [[0, -1, -t], [0, 1, -t], [t, 0, -1], [t, 0, 1], [-t, 0, -1], [-t, 0, 1]],
        float,
    )
    faces = np.array(
        [[0, 11, 5], [0, 5, 1], [0, 1, 7], [0, 7, 10], [0, 10, 11], [1, 5, 9], [5, 11, 4], [11, 10, 2], [10, 7, 6]]
        + [[7, 1, 8], [3, 9, 4], [3, 4, 2], [3, 2, 6], [3, 6, 8], [3, 8, 9], [4, 9, 5], [2, 4, 11], [6, 2, 10]]
        + [[8, 6, 7], [9, 8, 1]]
    )
    for _ in range(n_levels):
        step = loop_subdivision(faces, len(corners))
        corners, faces = step.matrix @ corners, step.faces
        corners /= np.linalg.norm(corners, axis=1, keepdims=True)
    return corners / np.linalg.norm(corners, axis=1, keepdims=True), faces


def _bumps(unit: np.ndarray, centres: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-((unit[:, None] - centres[None]) ** 2).sum(2) / width**2)


@pytest.fixture(scope="session")
def toy_template() -> Template:
    """A template of 2,562 vertices whose identity components bend the whole head, in metres."""
    rng = np.random.default_rng(3)
    unit, faces = _sphere(4)
    nose = _bumps(unit, np.array([[0, -0.1, 1.0]]) / np.sqrt(1.01), 0.25)
    vertices = unit * [0.075, 0.11, 0.09] + unit * 0.02 * nose
    centres = rng.standard_normal((8, 3))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    identity = unit[:, :, None] * (0.004 * _bumps(unit, centres, 0.8))[:, None, :]
    mouth = np.array([[0.3, -0.5, 0.8], [-0.3, -0.5, 0.8]])
    mouth /= np.linalg.norm(mouth, axis=1, keepdims=True)
    expression = unit[:, :, None] * (0.005 * _bumps(unit, mouth, 0.3))[:, None, :]
    jaw = 1 / (1 + np.exp((unit[:, 1] + 0.35) * 15)) * (unit[:, 2] > 0)
    model = HeadModel(
        v_template=vertices,
        faces=faces,
        shapedirs_identity=identity.astype(np.float32),
        shapedirs_expression=expression.astype(np.float32),
        weights=np.stack([np.zeros(len(unit)), 1 - jaw, jaw], axis=1),
        parents=(-1, 0, 1),
        joint_names=("root", "neck", "jaw"),
        joints=np.array([[0, -0.15, 0], [0, -0.08, -0.02], [0, -0.02, 0.0]]),
        joints_identity=np.zeros((3, 3, 8)),
        name="toy",
    )
    regions = {name: np.zeros(len(unit), bool) for name in bare_template(model).regions}
    regions["face"] = unit[:, 2] > 0.1
    regions["scalp"] = (unit[:, 1] > 0.5) & ~regions["face"]
    regions["hair_prone"] = regions["scalp"].copy()
    regions["boundary"] = unit[:, 1] < -0.97
    front = np.flatnonzero(unit[faces].mean(1)[:, 2] > 0.55)[::4]
    landmarks = LandmarkEmbedding(
        index=np.arange(len(front)),
        face=front,
        barycentric=np.full((len(front), 3), 1 / 3),
        spread_mm=np.ones(len(front)),
        weight=np.ones(len(front)),
    )
    bare = bare_template(model)
    return Template(model, landmarks, regions, np.arange(len(unit)), bare.anchors, bare.hash)
