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
from vlcl_toolkit.methods import Method
from vlcl_toolkit.sharding import BatchSharding, sharded
from vlcl_toolkit.streams.base import Task, load_batch
from vlcl_toolkit.streams.data import Draw
from vlcl_toolkit.training.devices import Devices

Request = list[tuple[int, Tensor, int | None]]
Loaded = list[tuple[Tensor, Tensor]]


def step_batches(
    method: Method, devices: Devices, task: Task, seed: int, start: int
) -> Generator[tuple[int, Tensor, Tensor]]:
    """Step, images (of this process) and labels (all), on the device, from step `start` on.

    Raises:
        UserError: an image cannot be read; the method loads its batches itself, and workers are wanted.
    """
    device, steps = method.clip.device, range(start, method.steps(task))
    sharding = devices.sharding(0)
    if devices.workers and steps:
        batches: Any = _ahead(method, devices, sharding, task, seed, steps)
    else:
        batches = _now(method, sharding, task, seed, steps)
    with contextlib.closing(batches):
        for step, (images, labels) in zip(steps, batches, strict=True):
            yield (
                step,
                images.to(device, non_blocking=True),
                labels.to(device, non_blocking=True),
            )


def _now(
    method: Method, sharding: BatchSharding | None, task: Task, seed: int, steps: range
) -> Iterator[tuple[Tensor, Tensor]]:
    for step in steps:
        with sharded(sharding):
            batch = method.training_batch(task, step, seed)
        yield batch


def _ahead(
    method: Method,
    devices: Devices,
    sharding: BatchSharding | None,
    task: Task,
    seed: int,
    steps: range,
) -> Iterator[tuple[Tensor, Tensor]]:
    if type(method).training_batch is not Method.training_batch:
        raise UserError(
            f"{method.name} loads its batches itself (training_batch); found workers="
            f"{devices.workers}; use 0, or let it define draws and receive"
        )
    sources = [draw._replace(indices=torch.empty(0)) for draw in method.draws(task, steps[0], seed)]
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
        with sharded(sharding):
            draws = method.draws(task, step, seed)
            images = method.receive(draws, [images for images, _ in loaded], step, seed)
        yield images, loaded[0][1]


def _requests(
    method: Method, task: Task, seed: int, steps: range, sources: list[Draw]
) -> Iterator[Request]:
    for step in steps:
        draws = method.draws(task, step, seed)
        assert [d.data for d in draws] == [d.data for d in sources], "one set of images per task"
        yield [(index, draw.indices, draw.seed) for index, draw in enumerate(draws)]


class _Images(Dataset):
    # What a loading process has: the sets of images, and which part of a batch is its.

    def __init__(self, sources: list[Draw], sharding: BatchSharding | None):
        self.sources, self.sharding = sources, sharding

    def __getitem__(self, request: Request) -> Loaded | str:
        try:
            with sharded(self.sharding):
                return [
                    load_batch(*self.sources[index]._replace(indices=indices, seed=seed))
                    for index, indices, seed in request
                ]
        except UserError as error:  # the loader would wrap it into a traceback
            return str(error)
