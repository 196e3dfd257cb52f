"""NumPy's files from strangers: read only if they are as large as they claim, and nothing in them is executed.

NumPy's own reader takes a header's word for the size, and raises whatever its parts raise.
"""

import lzma
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.lib import format as npy

MAX_ARRAYS_BYTES = 8 << 30
"""All arrays of an NPZ together, unpacked: a small file can claim any size."""

_ERRORS = (
    ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, SyntaxError, RecursionError, RuntimeError,
    AttributeError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What NumPy and zipfile raise for damaged files."""


class ArrayFileError(ValueError):
    """The file holds no arrays that could be read; OSError stays what it is."""


def read_npy(path: Path) -> ndarray:
    """Read one array; ArrayFileError where the file is damaged, claims too much, or holds Python objects."""
    path = Path(path)
    with path.open("rb") as stream:
        try:
            return _read_array(stream, path.stat().st_size)
        except _ERRORS as error:
            raise _no_array(error) from None


def read_npz_arrays(path: Path) -> dict[str, ndarray]:
    """Read all arrays of an archive; errors as for `read_npy`."""
    with Path(path).open("rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                entries = archive.infolist()
                if sum(entry.file_size for entry in entries) > MAX_ARRAYS_BYTES:
                    raise ArrayFileError(f"it claims more than {MAX_ARRAYS_BYTES >> 30} GB of arrays")
                found = {}
                for entry in entries:
                    with archive.open(entry) as member:
                        found[entry.filename.removesuffix(".npy")] = _read_array(member, entry.file_size)
                return found
        except _ERRORS as error:
            raise _no_array(error) from None


def _read_array(stream: Any, n_bytes: int) -> ndarray:
    version = npy.read_magic(stream)
    reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if reader is None:
        raise ArrayFileError(f"it has the version {version} of the format")
    shape, is_fortran, kind = reader(stream)
    count = 1
    for length in shape:
        count *= length
    if kind.hasobject or kind.itemsize == 0 or min(shape, default=0) < 0:
        raise ArrayFileError(f"it holds no plain numbers but {kind}")
    if count * kind.itemsize > n_bytes:
        raise ArrayFileError(f"it claims {count * kind.itemsize} bytes and has {n_bytes}")
    data = stream.read(count * kind.itemsize)
    array = np.frombuffer(data, kind, count).copy()
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)


def _no_array(error: Exception) -> ArrayFileError:
    return error if isinstance(error, ArrayFileError) else ArrayFileError(f"{type(error).__name__}: {str(error)[:80]}")
