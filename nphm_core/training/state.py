"""States of a training run on disk: everything that it goes on from after it was killed, at any moment.

A state is a safetensors file with a digest of its content. It is complete on the disk under a temporary name before it
gets its own; the one before it is kept until then, and used with a warning where the newest turns out damaged. Random
numbers are functions of seed and step (`draws`), so that no generator has a state to keep.
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from nphm_core.errors import TrainingError
from nphm_core.io.files import DamagedFileError, atomic_write, read_safetensors, write_safetensors

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
_N_KEPT = 2


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands after a number of steps."""

    step: int
    tensors: dict[str, Tensor]
    """Weights, codes and moments by name, on the CPU."""


class StateFolder:
    """The states of one run; `key` names what a state depends on, so that other settings do not go on from it."""

    def __init__(self, folder: Path, key: str) -> None:
        """Nothing is read or written yet."""
        self.folder, self._key = Path(folder), key

    def write(self, step: int, tensors: Mapping[str, Tensor]) -> Path:
        """Write a state, then remove those before the last one."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        facts = {"format": FORMAT_VERSION, "key": self._key, "step": step, "sha256": _digest(arrays)}
        path = self.folder / f"state-{step:09d}.safetensors"
        with atomic_write(path) as temporary:
            write_safetensors(temporary, arrays, facts)
            _to_disk(temporary)
        _to_disk(self.folder)
        for old in self._paths()[:-_N_KEPT]:
            old.unlink(missing_ok=True)
        return path

    def newest(self, *, discard_others: bool = False) -> TrainingState | None:
        """Read the newest state that is whole; None if there is none.

        A damaged one is passed over with a warning. One of other settings is a TrainingError, or passed over.
        """
        for path in reversed(self._paths()):
            try:
                return self._read(path)
            except DamagedFileError as error:
                log.warning("a damaged state is passed over, training goes on from an older one: %s", error)
            except TrainingError:
                if not discard_others:
                    raise
                log.info("the state of a run with other settings or data is not used: training starts anew")
        return None

    def clear(self, after: int = -1) -> None:
        """Remove states of later steps (they are damaged), and what a killed run left unfinished."""
        later = [path for path in self._paths() if int(path.stem.removeprefix("state-")) > after]
        for path in [*later, *self.folder.glob(".*state-*")]:
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("state-*.safetensors"))

    def _read(self, path: Path) -> TrainingState:
        arrays, facts = read_safetensors(path)
        if facts.get("format") != FORMAT_VERSION or facts.get("sha256") != _digest(arrays):
            raise DamagedFileError(f"its content is not what was written. File {path}")
        if facts["key"] != self._key:
            raise TrainingError(
                "the state was made with other settings, seed, subjects or data; expected those of this run, as "
                f"training would mix them. Start anew without --resume, or use the settings it began with. File {path}"
            )
        return TrainingState(int(facts["step"]), {name: torch.from_numpy(array) for name, array in arrays.items()})


def optimiser_tensors(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Give the state of an optimiser as named tensors."""
    stored = optimiser.state_dict()["state"]
    return {f"{prefix}.{row}.{name}": value for row, values in stored.items() for name, value in values.items()}


def load_optimiser(optimiser: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` gave."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        if name.startswith(f"{prefix}."):
            row, key = name.removeprefix(f"{prefix}.").split(".")
            state.setdefault(int(row), {})[key] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})


def _digest(arrays: Mapping[str, ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
