"""Read the arrays out of FLAME's pickle files without running anything that the pickle names.

A pickle may call any function that its reader can import. This reader imports nothing: it knows a dozen names, gives
its own harmless versions of them, and answers every other name with an error. Chumpy objects become inert records of
their state, from which the array is taken; so chumpy need not be installed.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from nphm_core.errors import TemplateError

_NUMPY_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric")
_MAX_DENSE = 1 << 27
"""Numbers in a sparse matrix, written out: a few bytes can claim any size."""
_SPARSE_CLASSES = {"csc_matrix": "csc", "csr_matrix": "csr", "csc_array": "csc", "csr_array": "csr"}


class _Record:
    """What is left of an object whose class is not run: its state."""

    state: dict[str, Any]

    def __new__(cls, *_args: Any) -> "_Record":
        # Some protocols never call __init__.
        record = super().__new__(cls)
        record.state = {}
        return record

    def __setstate__(self, state: Any) -> None:
        # Slots come as a pair (dict, slots).
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.state.update(part)

    def array(self) -> ndarray:
        """Give the array that the object stood for; TypeError if it held none."""
        raise TypeError("the object holds no array")


class _Chumpy(_Record):
    """A chumpy array, or a selection from one."""

    def array(self) -> ndarray:
        """Give the values."""
        if "x" in self.state:
            return np.asarray(plain(self.state["x"]))
        if "a" in self.state and "idxs" in self.state:
            values = np.asarray(plain(self.state["a"])).ravel()[np.asarray(plain(self.state["idxs"]))]
            shape = self.state.get("preferred_shape")
            return values if shape is None else values.reshape(shape)
        raise TypeError(f"a chumpy object holds {sorted(self.state)} and no plain array")


class _Columns(_Record):
    """A sparse matrix stored by columns."""

    by_column = True

    def array(self) -> ndarray:
        """Give the matrix, dense."""
        state = self.state
        rows, columns = state["_shape"] if "_shape" in state else state["shape"]
        indptr, indices = np.asarray(state["indptr"]), np.asarray(state["indices"])
        major = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        if not 0 <= rows * columns <= _MAX_DENSE:
            raise ValueError(f"a sparse matrix of {rows} x {columns} is too large")
        out = np.zeros((rows, columns))
        index = (indices, major) if self.by_column else (major, indices)
        np.add.at(out, index, np.asarray(state["data"]))
        return out


class _Rows(_Columns):
    """A sparse matrix stored by rows."""

    by_column = False


def plain(value: Any) -> Any:
    """Turn a record into its array and leave everything else."""
    return value.array() if isinstance(value, _Record) else value


def read_pickle_arrays(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary of arrays; everything that is not an array, a number or text is left out.

    Raises TemplateError where the pickle is damaged or names anything that is not needed to describe arrays.
    """
    try:
        data = _Reader(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except TemplateError as error:
        raise TemplateError(f"{error} File {path}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise TemplateError(
            f"the pickle cannot be read ({type(error).__name__}: {error}); expected a FLAME model file. "
            f"Download it again. File {path}"
        ) from error
    if not isinstance(data, dict):
        raise TemplateError(f"the pickle holds a {type(data).__name__}; expected FLAME's dictionary. File {path}")
    return {str(key): _array_or_none(value) for key, value in data.items() if _array_or_none(value) is not None}


def _array_or_none(value: Any) -> Any:
    try:
        value = plain(value)
    except (TypeError, LookupError, ValueError, AttributeError, OverflowError, RecursionError, MemoryError):
        return None
    return value if isinstance(value, (ndarray, int, float, str, list)) else None


class _Reader(pickle.Unpickler):
    """An unpickler that finds nothing but what describes arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """Give the harmless version of a name; TemplateError for every name that is not known."""
        if module.split(".")[0] == "chumpy":
            return _Chumpy
        if module.startswith("scipy.sparse") and name in _SPARSE_CLASSES:
            return _Columns if _SPARSE_CLASSES[name] == "csc" else _Rows
        known = _known_names()
        if (module, name) not in known:
            raise TemplateError(
                f"the pickle asks for {module}.{name}, which a head model does not need, so nothing of it was run; "
                "expected arrays, sparse matrices and chumpy objects. Use a file from the model's own site."
            )
        return known[module, name]


def _known_names() -> dict[tuple[str, str], Any]:
    """Make the table of allowed names, afresh so that no pickle can alter it for the next one."""

    def encode(text: str, codec: str = "latin1") -> bytes:
        return text.encode("latin1" if codec == "latin1" else "ascii")

    def reconstruct_object(cls: type, _base: type, _state: Any) -> Any:
        if not (isinstance(cls, type) and issubclass(cls, _Record)):
            raise TemplateError("the pickle builds an object that is no array.")
        return cls()

    def reconstruct_array(_subtype: Any, _shape: Any, _kind: Any) -> ndarray:
        return np.ndarray((0,), np.int8)

    def scalar(dtype: np.dtype, data: bytes | str = b"") -> Any:
        if dtype.hasobject:
            raise TemplateError("the pickle holds a scalar of Python objects.")
        raw = data.encode("latin1") if isinstance(data, str) else data
        return np.frombuffer(raw, dtype)[0]

    table: dict[tuple[str, str], Callable[..., Any] | type] = {
        ("_codecs", "encode"): encode,
        ("collections", "OrderedDict"): OrderedDict,
    }
    for module in ("copy_reg", "copyreg"):
        table[module, "_reconstructor"] = reconstruct_object
    for module in ("__builtin__", "builtins"):
        table |= {(module, "object"): object, (module, "set"): set, (module, "list"): list, (module, "dict"): dict}
    for module in _NUMPY_MODULES:
        table |= {
            (module, "_reconstruct"): reconstruct_array,
            (module, "scalar"): scalar,
            (module, "ndarray"): np.ndarray,
            (module, "dtype"): np.dtype,
        }
    return table
