"""Registered meshes come back from sample files as shapes, and what does not fit together is refused."""

from pathlib import Path

import numpy as np
import pytest

from nphm_core.errors import TopologyError, TrainingError
from nphm_core.supervision.sample_delta import write_delta_samples
from nphm_core.template.model import HeadModel
from nphm_core.template.template import bare_template
from nphm_core.training.shape_files import displacement_shapes, neutral_shapes, sampled_template

FACES = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])


def write(path: Path, faces: np.ndarray = FACES, **options) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(len(path.name))
    canonical, posed = rng.uniform(-1, 1, (2, 4, 3))
    write_delta_samples(path, canonical, posed, faces, np.array([1.0, 0.5, 0.2, 0.0]), {}, **options)
    return canonical, posed


def test_shapes_come_back_within_the_rounding_of_their_file(tmp_path):
    paths = [tmp_path / "one", tmp_path / "other"]
    truth = [write(path) for path in paths]
    neutrals, displacements = neutral_shapes(paths), displacement_shapes(paths)
    assert (neutrals.n_shapes, neutrals.n_vertices) == (2, 4)
    shapes, trust = neutrals.read(1, 3)
    assert np.abs(shapes - np.stack([posed[1:3] for _, posed in truth])).max() < 2e-5
    assert np.abs(trust - [[0.5, 0.2]] * 2).max() < 0.003
    shift, _ = displacements.read(0, 4)
    assert np.abs(shift - np.stack([posed - canonical for canonical, posed in truth])).max() < 4e-5


def test_no_files_are_no_shapes():
    assert displacement_shapes([]).n_shapes == 0


def test_a_part_of_the_head_is_refused(tmp_path):
    write(tmp_path / "part", keep=np.array([True, True, True, False]))
    with pytest.raises(TrainingError, match=r"sample_delta\.region"):
        neutral_shapes([tmp_path / "part"])


def test_meshes_of_two_topologies_are_refused(tmp_path):
    write(tmp_path / "one")
    write(tmp_path / "other", FACES[::-1])
    with pytest.raises(TrainingError, match="different topologies"):
        displacement_shapes([tmp_path / "one", tmp_path / "other"])


def test_meshes_of_another_template_are_refused(tmp_path):
    write(tmp_path / "one", FACES[::-1])
    model = HeadModel(
        v_template=np.eye(4, 3),
        faces=FACES,
        shapedirs_identity=np.zeros((4, 3, 1)),
        shapedirs_expression=np.zeros((4, 3, 1)),
        weights=np.ones((4, 1)),
        parents=(-1,),
        joint_names=("root",),
        joints=np.zeros((1, 3)),
        joints_identity=np.zeros((1, 3, 1)),
    )
    with pytest.raises(TopologyError, match="no subdivision of the template"):
        sampled_template(tmp_path / "one", bare_template(model))
