"""The batches of a task, step after step, loaded here or ahead of time by other processes.

Which images a step sees, and how they are cropped, follows from the task's seed and the step alone, so
that neither the number of loading processes nor an interruption changes a batch.
"""

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import Batch, BatchRequest, Method
from vlcl_toolkit.methods.batch import assemble
from vlcl_toolkit.sharding import BatchSharding, sharded
from vlcl_toolkit.streams.base import Task, load_batch
from vlcl_toolkit.training.devices import Devices

Request = list[tuple[str, Tensor, int | None]]
Loaded = list[tuple[Tensor, Tensor]]


def step_batches(
    method: Method, devices: Devices, task: Task, seed: int, start: int
) -> Generator[Batch]:
    """Batches on the device, with the images of this rank, from step `start` on.

    Raises:
        UserError: an image cannot be read.
    """
    steps, sharding = range(start, method.steps(task)), devices.sharding(0)
    batches: Any
    if devices.workers and steps:
        batches = _ahead(method, devices, sharding, task, seed, steps)
    else:
        batches = _now(method, sharding, task, seed, steps)
    with contextlib.closing(batches):
        yield from batches


def load_step(method: Method, task: Task, step: int, seed: int) -> Batch:
    """The batch of one step, loaded here and now."""
    requests = method.batch_requests(task, step, seed)
    loaded = [load_batch(*request) for request in requests.values()]
    return assemble(requests, loaded, step, seed, method.clip.device)


def _now(
    method: Method, sharding: BatchSharding | None, task: Task, seed: int, steps: range
) -> Iterator[Batch]:
    for step in steps:
        with sharded(sharding):
            batch = load_step(method, task, step, seed)
        yield batch


def _ahead(
    method: Method,
    devices: Devices,
    sharding: BatchSharding | None,
    task: Task,
    seed: int,
    steps: range,
) -> Iterator[Batch]:
    nothing = torch.empty(0, dtype=torch.int64)
    sources = {
        name: request._replace(indices=nothing)
        for name, request in method.batch_requests(task, steps[0], seed).items()
    }
    loader = DataLoader(
        _Images(sources, sharding),
        batch_size=None,  # an entry is a batch already
        sampler=_requests(method, task, seed, steps, sources),
        num_workers=devices.workers,
        pin_memory=method.clip.device.type == "cuda",
        generator=torch.Generator(),  # the global one belongs to the training
    )
    for step, loaded in zip(steps, loader, strict=True):
        if isinstance(loaded, str):
            raise UserError(loaded, of_one_process=True)
        requests = method.batch_requests(task, step, seed)
        yield assemble(requests, loaded, step, seed, method.clip.device)


def _requests(
    method: Method, task: Task, seed: int, steps: range, sources: dict[str, BatchRequest]
) -> Iterator[Request]:
    for step in steps:
        requests = method.batch_requests(task, step, seed)
        assert {name: r.data for name, r in requests.items()} == {
            name: r.data for name, r in sources.items()
        }, "one set of images for each name throughout a task"
        yield [(name, request.indices, request.seed) for name, request in requests.items()]


class _Images(Dataset):
    # What a loading process has: the sets of images, and which part of a batch is its own.

    def __init__(self, sources: dict[str, BatchRequest], sharding: BatchSharding | None):
        self.sources, self.sharding = sources, sharding

    def __getitem__(self, request: Request) -> Loaded | str:
        try:
            with sharded(self.sharding):
                return [
                    load_batch(*self.sources[name]._replace(indices=indices, seed=seed))
                    for name, indices, seed in request
                ]
        except UserError as error:  # the loader would wrap it into a traceback
            return str(error)
