"""Masks are read without pickle and refused where they do not fit their scan."""

import numpy as np
import pytest

from nphm_core.errors import ScanFileError
from nphm_core.io.mask_file import read_mask_file


def test_text_and_npy_give_the_same_mask(tmp_path):
    mask = np.array([1, 0, 0.25, 1])
    np.save(tmp_path / "mask.npy", mask)
    np.savetxt(tmp_path / "mask.txt", mask)
    np.testing.assert_array_equal(read_mask_file(tmp_path / "mask.npy", 4), mask)
    np.testing.assert_array_equal(read_mask_file(tmp_path / "mask.txt", 4), mask)


def test_truth_values_are_numbers(tmp_path):
    np.save(tmp_path / "mask.npy", np.array([True, False]))
    np.testing.assert_array_equal(read_mask_file(tmp_path / "mask.npy", 2), [1, 0])


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"1 1 1 1 1", "mask.txt", r"shape \(5,\)"),
        (b"one two", "mask.txt", "cannot be read"),
        (b"cos\nsystem\n(S'true'\ntR.", "mask.npy", "cannot be read"),
        (b"0 0 0 0", "mask.txt", "ignores the whole scan"),
        (b"1 nan 1 1", "mask.txt", "outside 0 to 1"),
        (b"1 2 1 1", "mask.txt", "outside 0 to 1"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_in_words(tmp_path, data, name, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ScanFileError, match=words):
        read_mask_file(tmp_path / name, 4)


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "mask.npy", np.array([1, None], object), allow_pickle=True)
    with pytest.raises(ScanFileError, match="cannot be read"):
        read_mask_file(tmp_path / "mask.npy", 2)
