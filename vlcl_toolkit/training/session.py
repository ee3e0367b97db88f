"""The bookkeeping of a run: what is saved, restored, tested, recorded and announced.

`loop.py` holds the loop itself.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from time import monotonic, perf_counter
from typing import Any

import torch

from vlcl_toolkit.errors import DivergedError, UserError
from vlcl_toolkit.methods import Method
from vlcl_toolkit.methods.zero_shot import ZeroShot
from vlcl_toolkit.probes.recorder import Recorder
from vlcl_toolkit.seeds import rng_state, set_rng_state
from vlcl_toolkit.streams.base import Task, TaskStream
from vlcl_toolkit.streams.label_space import LabelSpace
from vlcl_toolkit.training.backends import peak_memory_mib, reset_peak_memory
from vlcl_toolkit.training.checkpoint import (
    Checkpoint,
    CheckpointWarning,
    pack_optimizer,
    unpack_optimizer,
)
from vlcl_toolkit.training.devices import Devices
from vlcl_toolkit.training.events import DelayedInterrupt, Event, RowEvent, StepEvent, StopRun
from vlcl_toolkit.training.folder import RunFolder
from vlcl_toolkit.training.metrics import accuracy, frozen_accuracy
from vlcl_toolkit.training.results import accuracy_csv, accuracy_record


@dataclass
class Progress:
    """How far a run is: everything besides tensors that a resumed run needs.

    Attributes:
        position: optimisation steps taken plus accuracy rows measured, over the whole run.
        task_index, step: the task being learned and the steps taken in it.
        rows: accuracy by task name; the first is zero-shot. `validation`: one per learned task.
        history: where history.jsonl ends.
    """

    position: int = 0
    task_index: int = 0
    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    trainable_parameters: int = 0
    total_parameters: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "evaluate": 0.0})
    history: dict[str, int] = field(default_factory=lambda: {"bytes": 0, "crc32": 0})


class Session:
    """One call of `run`: a method, a stream, a folder, and how far they are."""

    def __init__(
        self,
        method: Method,
        stream: TaskStream,
        folder: RunFolder,
        devices: Devices,
        *,
        evaluate_all: bool,
        interrupt: DelayedInterrupt,
    ):
        self.method, self.stream, self.folder, self.devices = method, stream, folder, devices
        self.label_space = LabelSpace(stream)
        self.evaluate_all, self.interrupt = evaluate_all, interrupt
        self.listeners: list[Callable[[Event], None]] = []
        self.optimizer: torch.optim.Optimizer | None = None
        self._pending: list[
            tuple[int, int, dict[str, Any]]
        ] = []  # steps whose losses have not been fetched yet
        self.checkpoint = self._load()
        saved = self.checkpoint.state["progress"] if self.checkpoint else {}
        self.progress = Progress(**saved)
        if devices.is_main:
            folder.history.rewind(self.progress.history)
        self._saved_at = self.progress.position if self.checkpoint else -1
        self._save_due = self._next_save()
        reset_peak_memory(method.clip.device)
        self._clock = perf_counter()

    # Restoring, in the order in which the loop can take it up again.

    def _load(self) -> Checkpoint | None:
        # The first process warns of damaged files; all must have read before it writes the next one.
        with warnings.catch_warnings():
            if not self.devices.is_main:
                warnings.simplefilter("ignore", CheckpointWarning)
            checkpoint = self.folder.store.load()
        if checkpoint:
            self.folder.check_owner(checkpoint.state.get("run"))
        self.devices.barrier()
        return checkpoint

    def mend_results(self) -> None:
        """Bring result.json and accuracy.csv to where the checkpoint is, and say what was wrong with them."""
        if not self.devices.is_main:
            return
        path = self.folder.path
        if self.checkpoint is None:
            if (path / "result.json").exists():
                print(f"{path / 'checkpoints'} holds no checkpoint; the run begins again")
            return
        if self.progress.task_index:
            table = accuracy_csv(list(self.stream.names), self.progress.rows)
            for fault in self.folder.faults_in_results(table):
                print(f"{fault}; written again from the checkpoint")
        self.write_results(complete=False)

    def restore_method(self) -> None:
        """After `attach`: what the method had learned."""
        if self.checkpoint:
            self.method.load_state_dict(self._saved("method."))

    def start_optimizer(self, task: Task) -> torch.optim.Optimizer:
        """A fresh optimiser for a task, or the restored one in the middle of it."""
        parameters = self.method.trainable()
        if not len(task.train):
            raise UserError(
                f"task {task.name!r} has no training image; {self.method.name} needs some"
            )
        self.optimizer = self.method.optimizer(list(parameters.values()))
        self._count_parameters()
        if self.checkpoint and self.progress.step:
            state = self.checkpoint.state
            unpack_optimizer(self.optimizer, self._saved("optimizer."), state["optimizer"])
            self.devices.precision.load_state_dict(state["scaler"])
            set_rng_state(self._saved("rng."), state["rng"])
        self.checkpoint = None  # used up; free its memory
        self.devices.set_up(self.method)
        return self.optimizer

    def _saved(self, prefix: str) -> dict[str, torch.Tensor]:
        assert self.checkpoint is not None
        tensors = self.checkpoint.tensors.items()
        return {key.removeprefix(prefix): value for key, value in tensors if key.startswith(prefix)}

    # Recording.

    def step_done(self, step: int, steps: int, terms: dict[str, Any]) -> None:
        """Count a step; when it is time, log the last ones, save, tell the listeners."""
        done = self.progress
        done.step = step + 1
        done.position += 1
        self._pending.append((step, steps, terms))
        every_step = self.devices.execution.checkpoint_minutes == 0
        if not every_step and done.step % self.devices.log_every and done.step != steps:
            return  # fetching a loss waits for the device
        events = self._log_pending()
        self._add_seconds("train")
        if monotonic() >= self._save_due:
            self.save()
        for event in events:
            self.announce(event)

    def _log_pending(self) -> list[StepEvent]:
        task, events = self.stream[self.progress.task_index], []
        for step, steps, terms in self._pending:
            values = {name: float(value) for name, value in terms.items()}
            if not math.isfinite(values["loss"]):
                advice = "lower the learning rate"
                raise DivergedError(
                    f"the loss is {values['loss']} at step {step} of {task.name!r}; {advice}"
                )
            if self.devices.is_main:
                self.folder.history.append({"task": task.name, "step": step} | values)
            rate = values.pop("learning_rate")
            events.append(StepEvent(self.progress.task_index, step, steps, values, rate))
        self._pending = []
        return events

    def test(self, tester: Method, learned: Task | None) -> None:
        """Measure the next row of the accuracy table.

        Args:
            tester: the method, or zero-shot for the first row.
            learned: the task just learned, None for the first row.
        """
        self._add_seconds("train")
        done = self.progress
        if learned is not None:
            done.validation.append(accuracy(tester, learned.validation, learned))
        everything = (*self.stream.tasks, *self.stream.held_out)
        tasks = everything if self.evaluate_all else (learned,) if learned else ()
        count = done.task_index + 1 if learned is not None else 0
        questions = {task.name: self.label_space.evaluation_set(task, count) for task in tasks}
        measure = frozen_accuracy if isinstance(tester, ZeroShot) else accuracy
        done.rows.append({name: measure(tester, *asked) for name, asked in questions.items()})
        done.position += 1
        self._add_seconds("evaluate")

    def probe(self, recorder: Recorder) -> None:
        """Record what the task just learned did to the network."""
        recorder.record(len(self.progress.rows) - 1)
        self.progress.seconds.setdefault("probes", 0.0)
        self._add_seconds("probes")

    def task_done(self) -> None:
        """Move on to the next task, save, tell the listeners."""
        self.progress.task_index += 1
        self.progress.step = 0
        self.optimizer = None
        self._count_parameters()
        self.save()
        self.write_results(complete=False)
        self.announce_row(len(self.progress.rows) - 1)

    def announce_row(self, index: int) -> None:
        """Tell the listeners a row of the table."""
        name = self.stream.names[index - 1] if index else None
        self.announce(RowEvent(index, name, self.progress.rows[index]))

    def announce(self, event: Event) -> None:
        """Tell the listeners; the one place where a run can be asked to stop.

        The method is between two steps here, so that what is saved is consistent. The ranks of one run
        stop together.
        """
        reason: StopRun | KeyboardInterrupt | None = None
        try:
            for listener in self.listeners:
                listener(event)
            if self.interrupt.requested:
                reason = KeyboardInterrupt()
        except (StopRun, KeyboardInterrupt) as error:
            reason = error
        own = 0 if reason is None else 1 + isinstance(reason, KeyboardInterrupt)
        agreed = self.devices.all_reduce_max(own)
        if agreed:
            self.save()
            self.write_results(complete=False)
            raise reason or (StopRun() if agreed == 1 else KeyboardInterrupt())

    # Writing.

    def save(self) -> None:
        """Write a checkpoint, unless this very position was saved already."""
        done = self.progress
        if done.position == self._saved_at:
            return
        self._saved_at = done.position
        if not self.devices.is_main:
            return
        done.history = self.folder.history.mark()
        rng_tensors, rng_values = rng_state()
        state: dict[str, Any] = {
            "progress": asdict(done),
            "rng": rng_values,
            "run": self.folder.identity,
        }
        tensors = {f"method.{name}": value for name, value in self.method.state_dict().items()}
        tensors |= {f"rng.{name}": value for name, value in rng_tensors.items()}
        if self.optimizer is not None:
            moments, state["optimizer"] = pack_optimizer(self.optimizer)
            tensors |= {f"optimizer.{name}": value for name, value in moments.items()}
            state["scaler"] = self.devices.precision.state_dict()
        self.folder.store.save(done.position, tensors, state)
        self._save_due = self._next_save()  # from now: a slow disk must not leave a run only saving

    def _next_save(self) -> float:
        return monotonic() + 60 * self.devices.execution.checkpoint_minutes

    def write_results(self, *, complete: bool) -> None:
        """Write accuracy.csv and result.json."""
        if not self.devices.is_main:
            return
        done, names = self.progress, list(self.stream.names)
        held_out = [task.name for task in self.stream.held_out]
        missing = [math.nan] * (len(names) - len(done.validation))
        record = {
            "method": self.method.name,
            "stream": self.stream.id,
            "order": names,
            "seed": self.folder.config["seed"],
            **accuracy_record(
                names,
                held_out,
                done.rows,
                [*done.validation, *missing],
                [len(task.test) for task in self.stream],
                self.stream.label_space,
            ),
            "trainable_parameters": done.trainable_parameters,
            "total_parameters": done.total_parameters,
            "seconds": done.seconds,
            "peak_memory_mib": peak_memory_mib(self.method.clip.device),
            "complete": complete,
            **({} if complete else {"history": done.history}),
        }
        self.folder.write_results(record, accuracy_csv(names, done.rows))

    def _count_parameters(self) -> None:
        trainable = self.method.trainable().values()
        everything = {id(p): p for p in (*self.method.clip.model.parameters(), *trainable)}
        done, count = self.progress, sum(p.numel() for p in trainable)
        done.trainable_parameters = max(done.trainable_parameters, count)
        done.total_parameters = sum(p.numel() for p in everything.values())

    def _add_seconds(self, what: str) -> None:
        now = perf_counter()
        self.progress.seconds[what] += now - self._clock
        self._clock = now
