"""A toy head: an ellipsoid with eyeballs, a jaw and one expression. No scan of anyone."""

from dataclasses import replace

import numpy as np
import pytest

from nphm_core.geometry.subdivision import subdivided_faces, subdivision_hierarchy
from nphm_core.synthetic.corpus import CorpusSource, source_of_map
from nphm_core.synthetic.head_map import HeadMap, map_from_regions
from nphm_core.template.model import HeadModel
from nphm_core.template.template import LandmarkEmbedding, Template, bare_template


def unit_ball(levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Subdivide an octahedron onto the unit sphere."""
    vertices = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    steps = subdivision_hierarchy(faces, 6, levels, scheme="midpoint")
    for step in steps:
        vertices = step.matrix @ vertices
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    return vertices, subdivided_faces(steps, faces)[0]


@pytest.fixture(scope="session")
def ball() -> tuple[np.ndarray, np.ndarray]:
    """The unit ball, triangles outward."""
    return unit_ball(6)


@pytest.fixture(scope="session")
def toy_map() -> HeadMap:
    """A head of 150 x 220 x 190 mm with eyes that stand out a little."""
    skin, skin_faces = unit_ball(4)
    eye, eye_faces = unit_ball(2)
    skin = skin * [0.075, 0.11, 0.095]
    eyes = [eye * 0.012 + [side * 0.03, 0.02, 0.078] for side in (1, -1)]
    vertices = np.concatenate([skin, *eyes])
    n, k = len(skin), len(eye)
    faces = np.concatenate([skin_faces, eye_faces + n, eye_faces + n + k])
    is_skin = np.arange(len(vertices)) < n
    x, y, z = vertices.T
    jaw = np.clip((-0.03 - y) / 0.02, 0, 1) * (z > 0) * is_skin
    smile = np.zeros((len(vertices), 3, 2))
    smile[:, 0, 0] = smile[:, 0, 1] = (
        0.008 * np.sign(x) * np.exp(-((np.abs(x) - 0.03) ** 2 + (y + 0.04) ** 2) / 2e-4) * (z > 0)
    )
    smile[:, :, 0] *= (x > 0)[:, None]
    smile[:, :, 1] *= (x < 0)[:, None]
    identity = np.zeros((len(vertices), 3, 2))
    identity[:, 0, 0], identity[:, 1, 1] = 0.04 * x, 0.04 * y
    joints = np.array([[0, -0.08, 0], [0, -0.06, 0], [0, -0.01, 0.02]])
    model = HeadModel(
        v_template=vertices,
        faces=faces,
        shapedirs_identity=identity,
        shapedirs_expression=smile,
        weights=np.stack([np.zeros(len(x)), 1 - jaw, jaw], axis=1),
        parents=(-1, 0, 1),
        joint_names=("root", "neck", "jaw"),
        joints=joints,
        joints_identity=np.zeros((3, 3, 2)),
        expression_names=("mouthSmile_L", "mouthSmile_R"),
        name="toy",
    )
    lips = is_skin & (np.abs(x) < 0.03) & (z > 0) & (np.abs(y + 0.045) < 0.014)
    return map_from_regions(
        model,
        eyeball=~is_skin,
        inside=np.zeros(len(x), bool),
        hair=is_skin & (y > 0.06),
        fixed=~is_skin | lips,
        upper_rim=lips & (y > -0.045),
        lower_rim=lips & (y <= -0.045),
    )


@pytest.fixture(scope="session")
def toy_template(toy_map) -> Template:
    """The toy head as a template: regions, landmarks and anchors of its own."""
    model = toy_map.model
    x, y, z = model.v_template.T
    skin = ~toy_map.eyeball
    bare = bare_template(model)
    neck = skin & (y < -0.075)
    face = skin & (z > 0.02) & ~neck & (y < 0.06)
    ears = skin & (np.abs(x) > 0.068) & (np.abs(y) < 0.02)
    regions = bare.regions | {
        "face": face & ~ears,
        "ears": ears,
        "neck": neck,
        "scalp": skin & ~(face | ears | neck),
        "eyeballs": toy_map.eyeball,
        "hidden": np.zeros(len(x), bool),
    }
    front = np.flatnonzero((z[model.faces] > 0.04).all(1) & skin[model.faces].all(1))[::5]
    n = len(front)
    landmarks = LandmarkEmbedding(np.arange(n), front, np.full((n, 3), 1 / 3), np.ones(n), np.ones(n))
    anchors = np.flatnonzero(skin)[:: int(skin.sum()) // 39][:39]
    return replace(bare, regions=regions, landmarks=landmarks, anchors=anchors)


@pytest.fixture(scope="session")
def toy_source(toy_map, toy_template) -> CorpusSource:
    """The toy head as a source of people, refined once."""
    return source_of_map("toy", toy_template, toy_map, levels=1)
