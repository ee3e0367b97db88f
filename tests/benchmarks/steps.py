"""Training steps of a method, taken as a run takes them."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torchvision
from benchmarks.material import noise_stream
from benchmarks.measure import finish, operations, seconds

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.methods import Method, make_config, make_method, method_class
from vlcl_toolkit.methods.presets import preset_settings
from vlcl_toolkit.seeds import generator, seed_everything
from vlcl_toolkit.streams.base import Task, TaskStream
from vlcl_toolkit.training.backends import peak_memory_mib, reset_peak_memory
from vlcl_toolkit.training.devices import Devices
from vlcl_toolkit.training.execution import Execution
from vlcl_toolkit.training.loader import load_step
from vlcl_toolkit.training.loop import train_step

COOP = ("diki", "dpw", "prefix_tuning")  # learn on CoOp's split
_WARM_UP = 2  # steps
_SMALLEST_FOR_ALEXNET = 64  # pixels


def split_of(method: str) -> str:
    """Which of MTIL's splits the method's paper uses."""
    return "coop" if method in COOP else "zscl"


@contextlib.contextmanager
def bench_method(method: str | type[Method], clip: Clip, **settings: Any) -> Iterator[Method]:
    """A method with its preset for MTIL, attached; the selector's AlexNet has random weights."""
    cls = method_class(method)
    known = {field.name for field in fields(cls.Config)}
    with tempfile.TemporaryDirectory() as folder:
        if "selector_weights" in known and clip.image_size >= _SMALLEST_FOR_ALEXNET:
            settings["selector_weights"] = str(Path(folder, "alexnet.pth"))
            torch.save(torchvision.models.alexnet().state_dict(), settings["selector_weights"])
        elif "selector_features" in known:
            settings["selector_features"] = "clip"
        if "allow_singular" in known:  # noise has few different images
            settings |= {"allow_singular": True, "shrinkage": "auto"}
        usable = {key: value for key, value in settings.items() if key in known}
        config = make_config(cls, {**preset_settings(cls.name, clip.name, "mtil"), **usable})
        with make_method(cls, clip, asdict(config)) as attached:
            yield attached


class Stepper:
    """Takes steps of one task; the method is attached and has entered its stream."""

    def __init__(self, method: Method, task: Task, index: int, devices: Devices):
        seed_everything(0)
        self.method, self.task, self.devices = method, task, devices
        method.enter_task(index, task)
        method.begin_task(index, task, generator("begin_task", index))
        self.optimizer = method.optimizer(list(method.trainable().values()))
        devices.set_up(method)

    def take(self, step: int) -> None:
        """One step with its batch."""
        batch = load_step(self.method, self.task, step, 0)
        train_step(self.method, self.optimizer, batch, self.devices)

    def steady(self, steps: int) -> float:
        """Median seconds of a step, after the first ones."""
        for step in range(_WARM_UP):
            self.take(step)
        device, timed = self.method.clip.device, range(_WARM_UP, steps + _WARM_UP)
        return median(seconds(partial(self.take, step), device) for step in timed)


def measure_steps(
    name: str,
    clip: Clip,
    *,
    batch_size: int,
    steps: int,
    peak: float,
    execution: Execution,
    scale: float | int = 1,
) -> dict[str, Any]:
    """Training of one method on a task like Aircraft (100 classes).

    Args:
        peak: operations per second of a matrix product here, see `peak_rate`.
        scale: of the reference material.

    Returns:
        "step_ms", "images_per_second" (labelled ones), "peak_mib", "tflop" of a step, "share_of_peak"
        (of the operations that are matrix products; grouped ones of the experts are not counted).

    Raises:
        UserError: it does not fit into memory (its cause is a `torch.OutOfMemoryError`).
    """
    reset_peak_memory(clip.device)
    with bench_method(name, clip, batch_size=batch_size, **_short_selector()) as method:
        stream: TaskStream = noise_stream(clip, split_of(name), scale, tasks=1)
        task = stream[0]
        if len(task.train) < 2 * batch_size:  # at a small scale
            task = replace(
                task, train=task.train.subset(torch.arange(2 * batch_size) % len(task.train))
            )
        devices = Devices(clip, execution)
        with devices.computing(), devices.compiled():
            method.enter_stream(stream)
            stepper = Stepper(method, task, 0, devices)
            time = stepper.steady(steps)
            memory = peak_memory_mib(clip.device)
            flop = operations(lambda: stepper.take(steps + _WARM_UP))
            finish(clip.device)
    return {
        "method": name,
        "precision": clip.precision,
        "batch_size": batch_size,
        "step_ms": 1e3 * time,
        "images_per_second": batch_size / time,
        "peak_mib": memory,
        "tflop": flop / 1e12,
        "share_of_peak": flop / time / peak,
    }


def _short_selector() -> dict[str, int]:
    # It is trained once per task and does not belong to a step.
    return {"selector_iterations": 1, "selector_reference_iterations": 1}
