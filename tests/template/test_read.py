"""Reading head models: every layout, and pickles that try to do harm."""

import os
import pickle
import sys
import types

import numpy as np
import pytest
import scipy.sparse

from nphm_core.errors import TemplateError
from nphm_core.template.read import read_head_model
from nphm_core.template.safe_pickle import read_pickle_arrays

N_VERTICES = 40


def flame_arrays(rng) -> dict:
    """Make the arrays of a FLAME file of 40 vertices."""
    return {
        "v_template": rng.uniform(-0.12, 0.12, (N_VERTICES, 3)),
        "f": rng.integers(0, N_VERTICES, (30, 3)).astype(np.uint32),
        "shapedirs": 0.01 * rng.standard_normal((N_VERTICES, 3, 400)),
        "posedirs": 0.001 * rng.standard_normal((N_VERTICES, 3, 36)),
        "J_regressor": rng.dirichlet(np.ones(N_VERTICES), 5),
        "weights": rng.dirichlet(np.ones(5), N_VERTICES),
        "kintree_table": np.array([[4294967295, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "bs_style": "lbs",
    }


@pytest.fixture
def chumpy_ch(monkeypatch):
    """Give a class that pickles as chumpy's array does; chumpy itself is not installed."""
    package, module = types.ModuleType("chumpy"), types.ModuleType("chumpy.ch")

    class Ch:
        def __init__(self, x):
            self.x = x
            self._dirty_vars = set()
            self._itr = None

    class Select:
        def __init__(self, a, idxs, preferred_shape):
            self.a, self.idxs, self.preferred_shape = a, idxs, preferred_shape

    for cls, name in ((Ch, "Ch"), (Select, "Select")):
        cls.__module__, cls.__qualname__ = "chumpy.ch", name
        setattr(module, name, cls)
    monkeypatch.setitem(sys.modules, "chumpy", package)
    monkeypatch.setitem(sys.modules, "chumpy.ch", module)
    return module


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_flame_pickle_with_chumpy_is_read_without_chumpy(tmp_path, chumpy_ch, monkeypatch, protocol):
    arrays = flame_arrays(np.random.default_rng(0))
    stored = dict(arrays)
    for key in ("shapedirs", "v_template", "posedirs", "weights"):
        stored[key] = chumpy_ch.Ch(arrays[key])
    order = np.random.default_rng(1).permutation(N_VERTICES * 3)
    shuffled = np.empty(N_VERTICES * 3)
    shuffled[order] = arrays["v_template"].ravel()
    stored["v_template"] = chumpy_ch.Select(chumpy_ch.Ch(shuffled), order, (N_VERTICES, 3))
    stored["J_regressor"] = scipy.sparse.csc_matrix(arrays["J_regressor"])
    path = tmp_path / "generic_model.pkl"
    path.write_bytes(pickle.dumps(stored, protocol=protocol))
    monkeypatch.delitem(sys.modules, "chumpy.ch")
    monkeypatch.delitem(sys.modules, "chumpy")
    model = read_head_model(str(path))
    assert "chumpy" not in sys.modules
    assert np.allclose(model.v_template, arrays["v_template"], atol=0)
    assert (model.n_identity, model.n_expression) == (300, 100)
    assert model.joint_names == ("root", "neck", "jaw", "left_eye", "right_eye")
    assert model.parents == (-1, 0, 1, 1, 1)
    assert np.allclose(model.joints, arrays["J_regressor"] @ arrays["v_template"])
    assert np.allclose(model.shapedirs_expression, arrays["shapedirs"][:, :, 300:], atol=1e-7)


def test_flame_npz_and_pickle_give_the_same_model(tmp_path):
    arrays = flame_arrays(np.random.default_rng(2))
    np.savez(tmp_path / "flame2023.npz", **arrays)
    (tmp_path / "flame2023.pkl").write_bytes(pickle.dumps(arrays))
    first, second = (read_head_model(str(tmp_path / f"flame2023.{kind}")) for kind in ("npz", "pkl"))
    assert np.array_equal(
        first.pose(rotations={"jaw": np.array([0.3, 0, 0])}), second.pose(rotations={"jaw": np.array([0.3, 0, 0])})
    )


def test_rows_and_columns_of_sparse_matrices_are_told_apart(tmp_path):
    matrix = scipy.sparse.random(5, 40, density=0.2, random_state=0)
    stored = {"rows": matrix.tocsr(), "columns": matrix.tocsc()}
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(stored, protocol=2))
    read = read_pickle_arrays(tmp_path / "m.pkl")
    assert np.allclose(read["rows"], matrix.toarray())
    assert np.allclose(read["columns"], matrix.toarray())


class _Shell:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class _Evaluated(_Shell):
    def __reduce__(self):
        return eval, (f"open({str(self.marker)!r}, 'w')",)


@pytest.mark.parametrize("attack", [_Shell, _Evaluated])
def test_hostile_pickle_is_refused_and_runs_nothing(tmp_path, attack):
    marker = tmp_path / "ran"
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"v_template": attack(marker)}))
    with pytest.raises(TemplateError, match="nothing of it was run"):
        read_head_model(str(tmp_path / "bad.pkl"))
    assert not marker.exists()


def test_hostile_name_behind_a_known_module_is_refused(tmp_path):
    # Protocol 4 resolves dotted names: numpy.ndarray.__reduce__ and the like must not be reachable.
    payload = b"\x80\x04\x8c\x05numpy\x8c\x13ndarray.__class__.x\x93."
    (tmp_path / "bad.pkl").write_bytes(payload)
    with pytest.raises(TemplateError, match="does not need"):
        read_head_model(str(tmp_path / "bad.pkl"))


def test_damaged_files_are_refused_with_their_path(tmp_path):
    for name, content in {"a.pkl": b"not a pickle", "b.npz": b"PK\x03\x04broken"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TemplateError, match=name):
            read_head_model(str(tmp_path / name))
    with pytest.raises(TemplateError, match="does not exist"):
        read_head_model(str(tmp_path / "nothing.npz"))


def test_model_in_millimetres_is_refused(tmp_path):
    arrays = flame_arrays(np.random.default_rng(3))
    arrays["v_template"] = arrays["v_template"] * 1000
    np.savez(tmp_path / "mm.npz", **arrays)
    with pytest.raises(TemplateError, match="m tall"):
        read_head_model(str(tmp_path / "mm.npz"))


def test_gnm_is_read_and_has_no_jaw(tmp_path):
    rng = np.random.default_rng(4)
    pose = 0.001 * rng.standard_normal((36, 3 * N_VERTICES))
    arrays = {
        "template_vertex_positions": rng.uniform(-0.12, 0.12, (N_VERTICES, 3)),
        "vertex_identity_basis": 0.01 * rng.standard_normal((253, N_VERTICES, 3)),
        "expression_basis": 0.01 * rng.standard_normal((383, N_VERTICES, 3)),
        "skinning_weights": rng.dirichlet(np.ones(4), N_VERTICES).T,
        "pose_correctives_regressor": pose,
        "template_joint_positions": rng.uniform(-0.05, 0.05, (4, 3)),
        "joint_identity_basis": 0.001 * rng.standard_normal((253, 4, 3)),
        "joint_parent_indices": np.array([0, 0, 1, 1]),
        "joint_names": np.array(["neck", "head", "left_eye", "right_eye"]),
        "triangles": rng.integers(0, N_VERTICES, (30, 3)),
        "mirror_indices": np.arange(N_VERTICES),
        "version": np.array("3.0"),
    }
    np.savez(tmp_path / "gnm_head.npz", **arrays)
    model = read_head_model(str(tmp_path / "gnm_head.npz"))
    assert model.joint("jaw") is None
    assert model.joint("neck") == 0
    assert model.parents == (-1, 0, 1, 1)
    assert (model.n_identity, model.n_expression) == (253, 383)
    # Correctives alone: an eye without weight still moves the vertices that its feature names.
    rotvec = np.array([0.1, 0.2, 0.0])
    subset = model.subset(np.arange(3), n_identity=4, n_expression=2, joints=("neck", "left_eye"))
    at = model.coefficients(rotations={"left_eye": rotvec})
    assert np.allclose(model.evaluate(at, subset).positions, model.posed(at)[:3], atol=1e-7)
    vertex = np.moveaxis(pose.reshape(36, N_VERTICES, 3), 0, -1)
    assert np.allclose(model.posedirs, vertex, atol=1e-9)


def test_shared_model_has_its_documented_size(shared_dir):
    model = read_head_model(str(shared_dir / "heads" / "ict_flame_format_10kF_fp16.npz"))
    assert (model.n_vertices, model.n_identity, model.n_expression) == (5032, 100, 52)
    assert model.landmarks68 is not None
    jaw = model.pose(rotations={"jaw": np.array([0.44, 0, 0])})
    assert np.linalg.norm(jaw - model.v_template, axis=1).max() > 0.02
