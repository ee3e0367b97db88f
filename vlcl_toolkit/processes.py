"""The processes that torchrun started for one run."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Int64
from torch import Tensor

_team: ContextVar[tuple[int, int]] = ContextVar("team", default=(0, 1))


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


@contextlib.contextmanager
def team(process: int, processes: int) -> Iterator[None]:
    """Context of a run: this process and how many there are, for `spread`."""
    token = _team.set((process, processes))
    try:
        yield
    finally:
        _team.reset(token)


def spread(
    parts: Sequence[Tensor], answer: Callable[[Tensor], Tensor], device: torch.device
) -> Int64[Tensor, " n"]:
    """Labels of images, on the CPU; the processes of a run take turns with the batches.

    Args:
        parts: the indices of each batch, 0 .. n - 1 in order.
        answer: indices -> labels, int64.
    """
    process, processes = _team.get()
    if processes == 1:
        return torch.cat(
            [torch.empty(0, dtype=torch.int64), *(answer(part).cpu() for part in parts)]
        )
    labels = torch.zeros(sum(map(len, parts)), dtype=torch.int64, device=device)
    for part in parts[process::processes]:
        labels[part.to(device)] = answer(part).to(device)
    dist.all_reduce(labels)
    return labels.cpu()
