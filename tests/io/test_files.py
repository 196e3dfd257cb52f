"""Facts and arrays come back as they were, and the same content gives the same bytes."""

import numpy as np
import pytest

from nphm_core.io.files import (
    DamagedFileError,
    atomic_write,
    read_json,
    read_npz,
    read_safetensors,
    sha256_of,
    write_json,
    write_npz,
    write_safetensors,
)

ARRAYS = {
    "b": np.arange(6.0).reshape(2, 3),
    "a": np.array([True, False]),
    "scalar": np.float32(2.5),
    "e": np.zeros((0, 3)),
}


def test_arrays_survive_an_npz_and_its_bytes_depend_on_them_alone(tmp_path):
    write_npz(tmp_path / "x.npz", ARRAYS)
    write_npz(tmp_path / "y.npz", dict(reversed(ARRAYS.items())))
    assert sha256_of(tmp_path / "x.npz") == sha256_of(tmp_path / "y.npz")
    back = read_npz(tmp_path / "x.npz")
    for name, array in ARRAYS.items():
        assert back[name].dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(back[name], array)
        assert back[name].shape == np.shape(array)


def test_npz_refuses_objects_and_damage(tmp_path):
    with pytest.raises(ValueError, match="Object arrays"):
        write_npz(tmp_path / "x.npz", {"a": np.array([{}])})
    assert list(tmp_path.iterdir()) == []
    write_npz(tmp_path / "x.npz", ARRAYS)
    data = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DamagedFileError, match="Delete it and run again"):
        read_npz(tmp_path / "x.npz")
    with pytest.raises(DamagedFileError):
        read_npz(tmp_path / "missing.npz")


def test_safetensors_keep_arrays_and_facts_with_the_same_bytes_each_time(tmp_path):
    arrays = {"q": np.arange(4, dtype=np.int16), "f": np.ones((2, 3), np.float16), "u": np.arange(3, dtype=np.uint8)}
    facts = {"scan": "a/b", "numbers": [1, 2.5], "nested": {"x": None}}
    for name in ("x", "y"):
        write_safetensors(tmp_path / name, arrays, facts)
    assert sha256_of(tmp_path / "x") == sha256_of(tmp_path / "y")
    back, metadata = read_safetensors(tmp_path / "x")
    assert metadata == facts
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype


def test_json_sorts_keys_and_refuses_nan(tmp_path):
    write_json(tmp_path / "x.json", {"b": np.float64(1.5), "a": np.arange(2), "p": tmp_path})
    assert (tmp_path / "x.json").read_text().index('"a"') < (tmp_path / "x.json").read_text().index('"b"')
    assert read_json(tmp_path / "x.json") == {"a": [0, 1], "b": 1.5, "p": str(tmp_path)}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DamagedFileError):
        read_json(tmp_path / "x.json")


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail_half_way():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
