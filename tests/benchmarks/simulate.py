"""The time of a whole MTIL run, order I, of one method: measured pieces times their true number.

Measured for every task: its start (autoencoders, task Gaussians, the teacher's features of the reference
images: in full), some training steps, the end of an epoch (validation in full), its end; and after every
task, for each of the eleven data sets, the class vectors and the time per test image. Extrapolated: steps
and test images, whose number the measured time is multiplied with. Loading images is left out.
"""

from dataclasses import dataclass, field
from functools import partial

import torch
from benchmarks.material import noise_stream
from benchmarks.measure import seconds
from benchmarks.steps import Stepper, bench_method, split_of

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.methods import Method, make_method
from vlcl_toolkit.streams.base import ImageData, Task, TaskStream
from vlcl_toolkit.training.devices import Devices
from vlcl_toolkit.training.execution import Execution

_TESTED = (64, 128)  # test images of the two measurements


@dataclass
class Cost:
    """Seconds of a run.

    Attributes:
        start: before the first step of each task, and its end. train: steps and validation. evaluate: tests.
        measured: what was really spent to know that.
        steps, test_images: true numbers.
    """

    method: str
    precision: str
    start: float = 0.0
    train: float = 0.0
    evaluate: float = 0.0
    measured: float = 0.0
    steps: int = 0
    test_images: int = 0
    by_task: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Seconds of the whole run."""
        return self.start + self.train + self.evaluate


def simulate(
    name: str,
    clip: Clip,
    execution: Execution,
    *,
    steps: int = 6,
    scale: float | int = 1,
    tasks: int | None = None,
) -> Cost:
    """The cost of MTIL, order I.

    Args:
        steps: timed per task.
        scale: of all numbers of images; 1: the true ones.
        tasks: only the first ones.
    """
    cost, stream = Cost(name, clip.precision), noise_stream(clip, split_of(name), scale, tasks)
    devices = Devices(clip, execution)
    with devices.computing():
        cost.measured = seconds(lambda: _simulate(cost, clip, stream, devices, steps), clip.device)
    return cost


def _simulate(cost: Cost, clip: Clip, stream: TaskStream, devices: Devices, steps: int) -> None:
    _test(cost, make_method("zero_shot", clip), stream)
    with bench_method(cost.method, clip) as method, devices.compiled():
        method.enter_stream(stream)
        for index, task in enumerate(stream):
            before = cost.total
            _learn(cost, method, task, index, devices, steps)
            _test(cost, method, stream)
            cost.by_task[task.name] = cost.total - before


def _learn(
    cost: Cost, method: Method, task: Task, index: int, devices: Devices, steps: int
) -> None:
    device, made = method.clip.device, list[Stepper]()

    def start() -> None:
        made.append(Stepper(method, task, index, devices))
        made[0].take(0)  # what is gathered once, is gathered now

    begun = seconds(start, device)
    stepper, count = made[0], method.steps(task)
    each = stepper.steady(steps)
    epoch = -(-len(task.train) // method.config.batch_size)
    last = seconds(lambda: stepper.take(epoch - 1), device)  # may validate
    ended = seconds(lambda: method.end_task(index, task), device)
    cost.start += max(begun - each, 0.0) + ended
    cost.train += count * each + (count // epoch) * max(last - each, 0.0)
    cost.steps += count


def _test(cost: Cost, method: Method, stream: TaskStream) -> None:
    few, more = _TESTED
    for task in stream:
        count = len(task.test)
        first, second = (
            seconds(partial(method.classify, _images(task, number), task), method.clip.device)
            for number in (few, more)
        )
        rate = second / min(more, count)  # the class vectors are there by now
        cost.evaluate += max(first - rate * min(few, count), 0.0) + rate * count
        cost.test_images += count


def _images(task: Task, count: int) -> ImageData:
    return task.test.subset(torch.arange(min(count, len(task.test))))
