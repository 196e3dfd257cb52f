"""Which rows a step uses, and the random numbers it draws: functions of seed, purpose and step alone.

Nothing random is carried from step to step. So a resumed run needs no state of a generator, and any number of
processes agree on a step without a message: each draws the numbers of the whole batch and keeps its own part.
"""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SEED_BITS = 63


def seed_of(seed: int, purpose: str, step: int) -> int:
    """Give the seed of everything random that one step does for one purpose."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> (64 - _SEED_BITS)


class Draws:
    """Random numbers of one purpose on one device, anew for each step."""

    def __init__(self, seed: int, purpose: str, device: torch.device) -> None:
        """Prepare; nothing is drawn yet."""
        self._seed, self._purpose = seed, purpose
        self._generator = torch.Generator(device)

    def at(self, step: int) -> torch.Generator:
        """Give the generator of a step; it is the same object each time."""
        # Philox and Mersenne Twister both start afresh: no trace of earlier steps remains.
        return self._generator.manual_seed(seed_of(self._seed, self._purpose, step))


class BatchOrder:
    """Rows of a data set in batches: each epoch a new random order, no row twice in a batch.

    What is left over at an epoch's end is not used in that epoch.
    """

    def __init__(self, n_rows: int, batch: int, *, seed: int, purpose: str, device: torch.device) -> None:
        """Prepare; a batch holds all rows at most."""
        if n_rows < 1 or batch < 1:
            raise ValueError(f"there are {n_rows} rows for batches of {batch}; expected at least one each")
        self.batch = min(batch, n_rows)
        self.steps_an_epoch = n_rows // self.batch
        self._n_rows, self._seed, self._purpose, self._device = n_rows, seed, purpose, device
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)
        self._on_device = self._order

    def at(self, step: int) -> Int[Tensor, " batch"]:
        """Give the rows of a step, on the device."""
        rows = self._rows(step)
        return self._on_device[rows]

    def on_cpu(self, step: int) -> Int[Tensor, " batch"]:
        """Give the rows of a step where Python reads them."""
        rows = self._rows(step)
        return self._order[rows]

    def _rows(self, step: int) -> slice:
        epoch, place = divmod(step, self.steps_an_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_of(self._seed, f"{self._purpose} order", epoch))
            self._order = torch.randperm(self._n_rows, generator=generator)
            # One small copy an epoch, from memory that the device reads by itself; a batch is a view of it.
            sent = self._order.pin_memory() if self._device.type == "cuda" else self._order
            self._epoch, self._on_device = epoch, sent.to(self._device, non_blocking=True)
        return slice(place * self.batch, (place + 1) * self.batch)


@dataclass(frozen=True)
class Part:
    """Which rows of a batch this process works on."""

    start: int
    stop: int
    n_rows: int
    """Rows of the whole batch."""
    copies: int = 1
    """Processes that work on the very same rows."""

    @classmethod
    def whole(cls, n_rows: int) -> "Part":
        """Give all rows, of a single process."""
        return cls(0, n_rows, n_rows)

    @classmethod
    def of(cls, n_rows: int, rank: int, n_processes: int) -> "Part":
        """Give the rows of one process among several; they differ by one row at most.

        Of a batch with fewer rows than processes all do the whole.
        """
        if n_rows < n_processes:
            return cls(0, n_rows, n_rows, n_processes)
        return cls(n_rows * rank // n_processes, n_rows * (rank + 1) // n_processes, n_rows)

    @property
    def share(self) -> float:
        """Its share of the batch; a mean over the batch is the sum of parts' means, each times its share."""
        return (self.stop - self.start) / self.n_rows / self.copies

    def __call__(self, rows: Tensor) -> Tensor:
        """Give the part of something that has a row for each row of the batch."""
        return rows[self.start : self.stop]


def uniform(shape: tuple[int, ...], part: Part, generator: torch.Generator) -> Float[Tensor, "..."]:
    """Draw numbers in [0, 1) for a whole batch, and keep the part."""
    return part(torch.rand((part.n_rows, *shape), generator=generator, device=generator.device))


def normal(shape: tuple[int, ...], part: Part, generator: torch.Generator) -> Float[Tensor, "..."]:
    """Draw standard normal numbers for a whole batch, and keep the part."""
    return part(torch.randn((part.n_rows, *shape), generator=generator, device=generator.device))
