"""Training by several processes, one a GPU, as `torchrun` starts them.

Every process holds all weights and codes and works on its part of each batch; gradients are summed in one message, and
all take the same step. The result is that of one process on the whole batch, but for the order of sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from nphm_core.training.draws import Part


@dataclass(frozen=True)
class Processes:
    """This process among all."""

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> "Processes":
        """Give this process in PyTorch's process group; alone if there is none."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this one writes files."""
        return self.rank == 0

    def part(self, n_rows: int) -> Part:
        """Give this process's rows of a batch."""
        return Part.of(n_rows, self.rank, self.count)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over all processes, in place, in one message."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            distributed.barrier()
