"""Facts, arrays and whole files: deterministic bytes, written under a temporary name and renamed when complete.

The same content gives the same bytes, so that a checksum tells whether a result changed. Nothing here unpickles.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from nphm_core.durable import atomic_write
from nphm_core.errors import DamagedFileError
from nphm_core.io.array_files import ArrayFileError, read_npz_arrays


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 with the line ends it has."""
    write_bytes(path, text.encode())


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"JSON holds no {type(value).__name__}")


def json_text(data: Any) -> str:
    """Give the JSON text of plain data, arrays and paths: sorted keys; NaN and infinity raise ValueError."""
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False, default=_plain, ensure_ascii=False) + "\n"


def write_json(path: Path, data: Any) -> None:
    """Write plain data, arrays and paths as JSON with sorted keys; NaN and infinity raise ValueError."""
    write_text(path, json_text(data))


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise _unreadable(path, error.strerror or "unreadable") from None
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"no JSON: {error}") from None


def write_npz(path: Path, arrays: Mapping[str, Any], *, compress: bool = True) -> None:
    """Write named arrays without pickle; the bytes depend on names and values only."""
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    # Level 1 halves typical arrays at a fifth of the default level's time.
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", kind, compresslevel=1) as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = kind
            with archive.open(entry, "w", force_zip64=True) as stream:
                # Not ascontiguousarray: it turns a scalar into an array of one.
                array = np.asarray(arrays[name], order="C")
                np.lib.format.write_array(stream, array, allow_pickle=False)


def read_npz(path: Path) -> dict[str, ndarray]:
    """Read all arrays of an NPZ file; pickled objects in it are refused."""
    try:
        return read_npz_arrays(path)
    except OSError as error:
        raise _unreadable(path, error.strerror or "unreadable") from None
    except ArrayFileError as error:
        raise _unreadable(path, f"no NPZ: {error}") from None


_SAFETENSORS_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "int64": "I64",
    "uint64": "U64",
    "float64": "F64",
}


def write_safetensors(path: Path, arrays: Mapping[str, ndarray], metadata: Mapping[str, Any]) -> None:
    """Write named arrays and facts; each fact is kept as JSON text, as the format allows strings only.

    The package's own writer puts the metadata in random order; this one gives the same bytes each time.
    """
    header: dict[str, Any] = {"__metadata__": {key: json_text(metadata[key]).strip() for key in sorted(metadata)}}
    blobs, start = [], 0
    # Larger items first: readers map the arrays in place and need them aligned.
    for name in sorted(arrays, key=lambda key: (-np.asarray(arrays[key]).dtype.itemsize, key)):
        array = np.asarray(arrays[name], order="C")
        if array.dtype.name not in _SAFETENSORS_NAMES:
            raise TypeError(f"safetensors holds no {array.dtype.name}")
        blobs.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        kind = _SAFETENSORS_NAMES[array.dtype.name]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [start, start + array.nbytes]}
        start += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.writelines(blobs)


def read_safetensors(path: Path) -> tuple[dict[str, ndarray], dict[str, Any]]:
    """Read the arrays and the facts that `write_safetensors` wrote."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stream:
            metadata = {key: json.loads(text) for key, text in (stream.metadata() or {}).items()}
            return {name: stream.get_tensor(name) for name in stream.keys()}, metadata  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, str(error)) from None


def sha256_of(path: Path) -> str:
    """Give the SHA-256 of a file as hexadecimal text."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unreadable(path: Path, reason: str) -> DamagedFileError:
    return DamagedFileError(
        f"a file of this project cannot be read ({reason}); expected what an earlier stage wrote.\n"
        f"Delete it and run again, so that its stage makes it anew.\nFile {path}"
    )
