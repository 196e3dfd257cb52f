"""The toy training as one of several processes that `torchrun` starts."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from nphm_core.training.processes import Processes
from tests.training import toy

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    folder = Path(sys.argv[2])
    done = toy.train(sys.argv[1], folder, int(sys.argv[3]))
    if Processes.current().is_first:
        save_file(toy.result(done), folder / "result.safetensors")
    torch.distributed.destroy_process_group()
