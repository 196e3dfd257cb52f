"""Files of training samples: safetensors with facts, read in place by mapping the file into memory.

Rows of each group are in random order, so that any consecutive block of them is a random draw and a training step
reads one short piece of the file. Positions are canonical; the facts say in which box and steps they are coded.
"""

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32
from numpy import ndarray

from nphm_core.errors import SamplingError
from nphm_core.io.files import write_safetensors
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.supervision.quantise import (
    Box,
    decode_normals,
    decode_positions,
    decode_sdf,
    encode_normals,
    encode_positions,
    encode_sdf,
    sdf_step,
)
from nphm_core.supervision.samples import DistanceSamples, SdfSamples, SurfaceSamples

FORMAT_VERSION = 1
SDF_KIND = "nphm-sdf-samples"
DELTA_KIND = "nphm-delta-samples"

_DTYPES = {"U8": "<u1", "I8": "<i1", "BOOL": "?", "U16": "<u2", "I16": "<i2", "U32": "<u4"}


def common_facts(kind: str) -> dict[str, Any]:
    """Give the facts that every sample file starts from."""
    return {
        "kind": kind,
        "format": FORMAT_VERSION,
        "space": "canonical",
        "mm_per_unit": MM_PER_CANONICAL_UNIT,
    }


def write_sdf_samples(path: Path, samples: SdfSamples, facts: dict[str, Any]) -> None:
    """Write samples of one scan; `facts` (template, seed, scan, ...) are kept beside our own."""
    box = Box.around(*(getattr(samples, group).position for group in ("face", "rest", "near", "far")))
    arrays: dict[str, ndarray] = {}
    for name in ("face", "rest"):
        surface: SurfaceSamples = getattr(samples, name)
        arrays[f"{name}.position"] = encode_positions(surface.position, box)
        arrays[f"{name}.normal"] = encode_normals(surface.normal)
    steps = {}
    for name in ("near", "far"):
        group: DistanceSamples = getattr(samples, name)
        steps[name] = sdf_step(group.sdf)
        arrays[f"{name}.position"] = encode_positions(group.position, box)
        arrays[f"{name}.sdf"] = encode_sdf(group.sdf, steps[name])
        arrays[f"{name}.trusted"] = group.trusted.astype(np.uint8)
    own = common_facts(SDF_KIND) | {"box": box.to_json(), "sdf_step": steps}
    write_safetensors(path, arrays, facts | own)


class MappedFile:
    """The arrays of a safetensors file as views into the mapped file; nothing is read before it is used."""

    def __init__(self, path: Path, kind: str) -> None:
        """Map a file; SamplingError if it is no sample file of this kind."""
        with Path(path).open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= Path(path).stat().st_size - 8:
                raise _damaged(path, kind, "it has no safetensors header")
            header = json.loads(stream.read(length))
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.facts = {key: json.loads(text) for key, text in header.pop("__metadata__", {}).items()}
        if self.facts.get("kind") != kind or self.facts.get("format") != FORMAT_VERSION:
            raise _damaged(path, kind, f"it is {self.facts.get('kind')} {self.facts.get('format')}")
        if 8 + length + max(entry["data_offsets"][1] for entry in header.values()) > len(data):
            raise _damaged(path, kind, "it ends early")
        self._arrays = {name: _view(data, 8 + length, entry) for name, entry in header.items()}

    def __getitem__(self, name: str) -> ndarray:
        """Give one array, coded as it lies in the file."""
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        """Tell whether there is such an array."""
        return name in self._arrays


class SdfSampleReader:
    """Blocks of samples of one scan, decoded to float32 in canonical space."""

    def __init__(self, path: Path) -> None:
        """Map the file of `write_sdf_samples`."""
        self._file = MappedFile(path, SDF_KIND)
        self.facts = self._file.facts
        self._box = Box.from_json(self.facts["box"])

    def count(self, group: str) -> int:
        """Give the number of samples in `face`, `rest`, `near` or `far`."""
        return len(self._file[f"{group}.position"])

    def surface(self, group: str, start: int, n: int) -> tuple[Float32[ndarray, "n 3"], Float32[ndarray, "n 3"]]:
        """Give positions and unit normals of rows from `start` on in `face` or `rest`, going round at the end."""
        position = decode_positions(self._rows(f"{group}.position", start, n), self._box)
        normal = decode_normals(self._rows(f"{group}.normal", start, n))
        return position.astype(np.float32), normal.astype(np.float32)

    def distances(
        self, group: str, start: int, n: int
    ) -> tuple[Float32[ndarray, "n 3"], Float32[ndarray, " n"], Bool[ndarray, " n"]]:
        """Give positions, signed distances and trust of rows from `start` on in `near` or `far`, going round."""
        position = decode_positions(self._rows(f"{group}.position", start, n), self._box)
        sdf = decode_sdf(self._rows(f"{group}.sdf", start, n), self.facts["sdf_step"][group])
        trusted = self._rows(f"{group}.trusted", start, n).astype(bool)
        return position.astype(np.float32), sdf.astype(np.float32), trusted

    def position_error(self) -> Float[ndarray, " 3"]:
        """Give the largest error of a stored position along each axis, in canonical units."""
        return self._box.step / 2

    def _rows(self, name: str, start: int, n: int) -> ndarray:
        rows = self._file[name]
        if not len(rows):
            raise SamplingError(
                f"there is no sample in {name}; a positive number was expected. Ask `count` first, or raise its "
                "number in the section sample_sdf of the config"
            )
        start %= len(rows)
        if start + n <= len(rows):
            return rows[start : start + n]
        return rows[np.arange(start, start + n) % len(rows)]


def _view(data: mmap.mmap, start: int, entry: dict[str, Any]) -> ndarray:
    begin, end = entry["data_offsets"]
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    flat = np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, start + begin)
    return flat.reshape(entry["shape"])


def _damaged(path: Path, kind: str, reason: str) -> SamplingError:
    return SamplingError(
        f"the sample file cannot be used: {reason}; expected {kind} {FORMAT_VERSION}. "
        f"Delete it and run its stage again. File {path}"
    )
