"""The processes that torchrun started for one run."""

import os
from typing import NamedTuple

import torch.distributed as dist


class Processes(NamedTuple):
    """This process among those of a run.

    Attributes:
        rank, world: its number, and how many there are. local_rank, local_world: on this machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def processes() -> Processes:
    """As torchrun tells it; without torchrun: one process."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        return Processes()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Processes(*(int(os.environ[name]) for name in names))
