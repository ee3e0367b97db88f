"""Events emitted during a run, and how to stop it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

if TYPE_CHECKING:
    from vlcl_toolkit.training.results import RunResult

import math
import signal
import threading
from types import FrameType


class StopRun(Exception):
    """Raise it in a callback: the run saves a checkpoint and returns what it has."""


@dataclass(frozen=True)
class StepEvent:
    """An optimisation step was taken: `step` (from 0) of `steps` of task `task_index` (from 0)."""

    task_index: int
    step: int
    steps: int
    losses: dict[str, float]
    learning_rate: float


@dataclass(frozen=True)
class RowEvent:
    """A row of the accuracy table is known: row 0 (task_name None) is the frozen CLIP.

    `accuracies` are percent by task name, those of held-out tasks included.
    """

    row_index: int
    task_name: str | None
    accuracies: dict[str, float]


@dataclass(frozen=True)
class DoneEvent:
    """The run is complete and on disk."""

    result: "RunResult"


Event = StepEvent | RowEvent | DoneEvent


class ProgressBar:
    """One bar over all optimisation steps of a run, in a shell or a notebook."""

    def __init__(self, names: list[str], total: int, done: int):
        self.names = names
        self.bar = tqdm(total=total, initial=done, desc="zero-shot", disable=total == 0)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepEvent):
            self.bar.set_description(self.names[event.task_index], refresh=False)
            self.bar.set_postfix(loss=f"{event.losses['loss']:.3f}", refresh=False)
            self.bar.update()
        elif isinstance(event, RowEvent):
            tested = [
                value
                for name in self.names
                if math.isfinite(value := event.accuracies.get(name, math.nan))
            ]
            if tested:
                which = "" if len(tested) == len(self.names) else f"of {len(tested)} tested "
                self.bar.set_description(f"mean {which}{sum(tested) / len(tested):.1f} %")

    def close(self) -> None:
        """Stop updating the bar."""
        self.bar.close()


class DelayedInterrupt:
    """Context: the first Ctrl-C only sets `requested`; the second interrupts at once.

    Only the main thread receives signals; in others this does nothing.
    """

    requested = False

    def __enter__(self) -> "DelayedInterrupt":
        self._previous = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
