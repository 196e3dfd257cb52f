"""The linear head model: posing and its derivatives."""

import numpy as np
import pytest

from nphm_core.template.model import FLAME_JOINTS, Coefficients, HeadModel
from nphm_core.template.rotations import perturbed, rotation_matrices, rotation_vector


def random_model(rng, *, n_vertices=60, n_identity=7, n_expression=5, dtype=np.float64) -> HeadModel:
    """Make a model of random numbers with FLAME's joints; every term of the posing is present."""
    weights = rng.dirichlet(np.ones(5), n_vertices)
    return HeadModel(
        v_template=0.1 * rng.standard_normal((n_vertices, 3)),
        faces=rng.integers(0, n_vertices, (20, 3)),
        shapedirs_identity=(0.01 * rng.standard_normal((n_vertices, 3, n_identity))).astype(dtype),
        shapedirs_expression=(0.01 * rng.standard_normal((n_vertices, 3, n_expression))).astype(dtype),
        weights=weights,
        parents=(-1, 0, 1, 1, 1),
        joint_names=FLAME_JOINTS,
        joints=0.05 * rng.standard_normal((5, 3)),
        joints_identity=0.002 * rng.standard_normal((5, 3, n_identity)),
        joints_expression=0.001 * rng.standard_normal((5, 3, n_expression)),
        posedirs=(0.01 * rng.standard_normal((n_vertices, 3, 36))).astype(dtype),
        pose_joints=(1, 2, 3, 4),
        expression_names=tuple("abcde"[:n_expression]),
    )


def random_coefficients(model, rng) -> Coefficients:
    """Draw identity, expression and joint rotations."""
    return Coefficients(
        rng.standard_normal(model.n_identity),
        rng.standard_normal(model.n_expression),
        0.5 * rng.standard_normal((model.n_joints, 3)),
    )


def test_rotation_vectors_survive_a_round_trip_at_every_angle():
    rng = np.random.default_rng(0)
    for angle in (0.0, 1e-9, 1e-4, 0.3, 2.0, 3.0, np.pi - 1e-7):
        axis = rng.standard_normal(3)
        rotvec = angle * axis / np.linalg.norm(axis)
        assert np.allclose(rotation_vector(rotation_matrices(rotvec[None])[0]), rotvec, atol=1e-9)


def test_perturbation_is_a_product_from_the_right():
    rng = np.random.default_rng(1)
    first, step = rng.standard_normal((2, 3))
    expected = np.matmul(*rotation_matrices(np.stack([first, step])))
    assert np.allclose(rotation_matrices(perturbed(first, step)[None])[0], expected, atol=1e-12)


def test_jacobian_agrees_with_finite_differences():
    rng = np.random.default_rng(2)
    model = random_model(rng)
    at = random_coefficients(model, rng)
    subset = model.subset(np.array([3, 17, 41]), joints=FLAME_JOINTS, dtype=np.float64)
    jacobian = model.evaluate(at, subset).jacobian
    for k in range(subset.n_parameters):
        step = np.zeros(subset.n_parameters)
        step[k] = 1e-6
        ahead = model.evaluate(subset.moved(at, step), subset).positions
        behind = model.evaluate(subset.moved(at, -step), subset).positions
        assert np.allclose(jacobian[:, :, k], (ahead - behind) / 2e-6, atol=1e-9), k


def test_subset_lies_where_the_full_model_lies():
    rng = np.random.default_rng(3)
    model = random_model(rng)
    at = random_coefficients(model, rng)
    vertices = np.array([5, 2, 50])
    evaluation = model.evaluate(at, model.subset(vertices))
    assert np.allclose(evaluation.positions, model.posed(at)[vertices], atol=1e-7)  # metres: 0.0001 mm


def test_posing_agrees_with_plain_loops():
    rng = np.random.default_rng(4)
    model = random_model(rng)
    at = random_coefficients(model, rng)
    local = rotation_matrices(at.rotations)
    joints = model.joints + model.joints_identity @ at.identity + model.joints_expression @ at.expression
    chain: list[np.ndarray] = []
    for j, parent in enumerate(model.parents):
        matrix = np.eye(4)
        matrix[:3, :3] = local[j]
        matrix[:3, 3] = joints[j] - (joints[parent] if parent >= 0 else 0)
        chain.append(matrix if parent < 0 else chain[parent] @ matrix)
    rest = model.v_template + model.shapedirs_identity @ at.identity + model.shapedirs_expression @ at.expression
    rest = rest + model.posedirs @ (local[1:] - np.eye(3)).ravel()
    expected = np.zeros_like(rest)
    for v in range(model.n_vertices):
        for j in range(5):
            turned = chain[j] @ np.append(rest[v] - joints[j], 1.0)
            expected[v] += model.weights[v, j] * turned[:3]
    assert np.allclose(model.posed(at), expected, atol=1e-12)


def test_rotating_the_root_alone_turns_the_head_rigidly():
    rng = np.random.default_rng(5)
    model = random_model(rng)
    rotvec = np.array([0.2, -0.4, 0.1])
    turned = model.pose(rotations={"root": rotvec})
    expected = (model.v_template - model.joints[0]) @ rotation_matrices(rotvec[None])[0].T + model.joints[0]
    assert np.allclose(turned, expected, atol=1e-12)


def test_unknown_names_are_refused():
    model = random_model(np.random.default_rng(6))
    with pytest.raises(ValueError, match="no joint 'tail'"):
        model.pose(rotations={"tail": np.zeros(3)})
    with pytest.raises(ValueError, match="no expression"):
        model.pose(expression={"wink": 1.0})


def test_missing_joints_leave_no_columns():
    model = random_model(np.random.default_rng(7))
    subset = model.subset(np.arange(4), joints=("neck", "tail"))
    assert subset.joints == (1,)
