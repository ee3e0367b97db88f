"""The part that all training panels share: run, stop, progress, the accuracy matrix, all runs so far."""

import copy
import functools
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import ipywidgets
import pandas as pd
from matplotlib.figure import Figure

from vlcl_toolkit.analysis.comparison import frozen_scores, gains
from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.plotting import accuracy_matrix, new_figure, trade_off, unseen_accuracy
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.training.events import Event, RowEvent, StepEvent
from vlcl_toolkit.training.results import RunResult
from vlcl_toolkit.widgets.keys import guard_keys
from vlcl_toolkit.widgets.runs import (
    BackgroundRun,
    Key,
    KnownRuns,
    scores_html,
)
from vlcl_toolkit.widgets.view import ErrorView, Picture, shows_errors

_SECONDS = 0.15  # between two movements of the progress bar


class LivePanel(ipywidgets.VBox):
    """Trains in a thread with the settings of a subclass's controls, and shows the progress.

    A copy of the backbone is trained, so other cells are not disturbed. Runs are kept by what
    was chosen: going back to a choice shows its run at once.

    Attributes:
        run_button, stop_button: a stopped run leaves a checkpoint and continues when run again.
        error_view: shows what went wrong; its `error` is the exception, or None.
    """

    heading = "Order"  # of what tells runs of one method apart

    def __init__(self, stream: TaskStream, clip: Clip, *, seed: int, probes: bool):
        """Prepare; a subclass creates its controls and then calls `_arrange`.

        Args:
            seed, probes: of every run, see `vlcl_toolkit.run`.
        """
        self._clip = clip
        self._options: dict[str, Any] = {"seed": seed} | ({"probes": True} if probes else {})
        self._known = KnownRuns([task.name for task in stream.held_out])
        self._run: BackgroundRun | None = None
        self._moved_at = 0.0
        w = ipywidgets
        self.run_button = w.Button(description="Run", icon="play", button_style="primary")
        self.stop_button = w.Button(description="Stop", icon="stop", disabled=True)
        self.progress = w.FloatProgress(min=0, max=1, layout={"width": "100%"})
        self.status, self.scores, self.error_view = w.HTML(), w.HTML(), ErrorView()
        self.matrix, self.curves = Picture(width="51%"), Picture(width="48%")
        self.comparison = Picture(max_width="760px")
        self.run_button.on_click(self.start)
        self.stop_button.on_click(self.stop)
        super().__init__()

    def _arrange(self, left: ipywidgets.Widget, above: ipywidgets.Widget | None = None) -> None:
        """Lay out the page: controls on the left and, if any, above the buttons."""
        w = ipywidgets
        buttons = w.HBox([self.run_button, self.stop_button])
        right = [buttons, self.progress, self.status, self.error_view]
        layout = {"flex": "1 1 24em", "min_width": "24em"}
        column = w.VBox([above, *right] if above is not None else right, layout=layout)
        top = w.HBox([left, column], layout={"flex_flow": "row wrap"})
        pictures = w.HBox([self.matrix, self.curves], layout={"align_items": "flex-start"})
        bottom = w.HBox([self.scores, self.comparison], layout={"flex_flow": "row wrap"})
        self.children = [top, pictures, bottom]
        guard_keys(self)
        self.refresh()

    # A subclass defines:

    @property
    @abstractmethod
    def key(self) -> Key:
        """What is chosen now."""

    @property
    @abstractmethod
    def chosen_stream(self) -> TaskStream:
        """The stream in the order chosen now."""

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """What is chosen now of the method's settings."""

    @abstractmethod
    def lock(self, locked: bool) -> None:
        """Switch the controls of the choice off or on."""

    @abstractmethod
    def describe(self, key: Key) -> str:
        """What tells runs of one method apart, as HTML for the table of scores."""

    # State.

    @property
    def running(self) -> bool:
        """Whether a run is in progress."""
        return self._run is not None and not self._run.ended

    @property
    def results(self) -> dict[Key, RunResult]:
        """Finished runs by (method, order, settings)."""
        return self._known.results

    @property
    def result(self) -> RunResult | None:
        """The finished run of what is chosen now."""
        return self.results.get(self.key)

    # Actions of the reader.

    @shows_errors
    def start(self, _: object = None) -> None:
        """Train in a thread (the run button)."""
        self.error_view.clear()
        if self.running or self.result is not None:
            return
        what = self.key.method, self.chosen_stream, copy.deepcopy(self._clip)
        options = {"config": dict(self.settings), **self._options}
        self._run = BackgroundRun(self._on_event, self._on_end, *what, **options)
        self._lock(True)
        self.status.value = "Starting: testing what has not been tested yet …"
        self._run.start()

    @shows_errors
    def stop(self, _: object = None) -> None:
        """Ask the run to end with a checkpoint (the stop button)."""
        if self._run is not None:
            self._run.stop()
            self.stop_button.disabled = True
            self.status.value = "Stopping: saving a checkpoint …"

    def wait(self, seconds: int | float | None = None) -> bool:
        """Wait until no run is in progress; False if it still is after `seconds`."""
        return self._run is None or self._run.wait(seconds)

    # Events of the run, in its thread.

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RowEvent):
            self._known.add_row(self.key, event)
            self.refresh()
        elif isinstance(event, StepEvent) and time.monotonic() > self._moved_at + _SECONDS:
            self._moved_at = time.monotonic()
            self._show_step(event)

    @shows_errors
    def _on_end(self, run: BackgroundRun) -> None:
        self._lock(False)
        if run.result is not None:
            self._known.add_result(self.key, run.result)
        self.refresh()
        if run.error is not None:
            self.error_view.show(run.error)

    # What is shown.

    def figure(self) -> Figure:
        """Matrix and curves as one static figure, for readers without a kernel."""
        figure, axes = new_figure(1, 2, width=15, height=4.6, width_ratios=[1.1, 1])
        accuracy, held_out = self._known.tables(self.key)
        accuracy_matrix(accuracy, axes[0], held_out=held_out)
        unseen_accuracy(accuracy, axes[1], held_out=held_out)
        return figure

    @shows_errors
    def refresh(self, _: object = None) -> None:
        """Show what is known of the present choice."""
        accuracy, held_out = self._known.tables(self.key)
        known = int(accuracy.notna().any(axis=1).sum())
        key = (*self.key, known)
        self.matrix.show(key, functools.partial(_render, accuracy_matrix, 7.6, accuracy, held_out))
        self.curves.show(key, functools.partial(_render, unseen_accuracy, 7.2, accuracy, held_out))
        self._show_all_runs(accuracy)
        if not self.running:
            self.progress.value = max(0, known - 1) / len(accuracy.columns)
            self.status.value = self._state(known)

    def _show_all_runs(self, accuracy: pd.DataFrame) -> None:
        """All runs so far: a table, and a picture of what each gained and lost."""
        frozen = frozen_scores(accuracy.iloc[0])
        now = Key("zero_shot", self.key.order)
        lines = [("zero_shot", self.describe(now), frozen, self.key.method == "zero_shot")]
        rows = []
        for key, result in self.results.items():
            if key.method == "zero_shot":  # above, in the order chosen now
                continue
            rows.append(gains(result) | {"method": key.method, "shown": key == self.key})
            lines.append((key.method, self.describe(key), result.metrics, key == self.key))
        self.scores.value = scores_html(lines, self.heading)
        self.comparison.layout.display = "" if rows else "none"
        if rows:
            frame = pd.DataFrame(rows)
            self.comparison.show((len(rows), self.key), functools.partial(_render_runs, frame))

    def _show_step(self, event: StepEvent) -> None:
        order = self.key.order
        self.progress.value = (event.task_index + (event.step + 1) / event.steps) / len(order)
        place = f"{escape(order[event.task_index])} ({event.task_index + 1} of {len(order)})"
        numbers = f"step {event.step + 1} of {event.steps}, loss {event.losses['loss']:.2f}"
        if not self.stop_button.disabled:  # else "Stopping ..." stays
            self.status.value = f"Learning <b>{place}</b>: {numbers}"

    def _lock(self, running: bool) -> None:
        self.lock(running)
        self.run_button.disabled = running
        self.stop_button.disabled = not running

    def _state(self, known: int) -> str:
        if self.result is not None:
            seconds = self.result.seconds["train"]
            return f"Complete: {seconds:.0f} s of training, in <code>{self.result.folder}</code>"
        if self.key in self._known:
            learned = f"{max(0, known - 1)} of {len(self.key.order)} tasks learned"
            return f"Stopped: {learned}. Press Run to continue."
        return "Not run yet. Press Run."


def _render(
    plot: Callable[..., Any], width: float, accuracy: pd.DataFrame, held_out: pd.DataFrame
) -> Figure:
    figure, axes = new_figure(width=width, height=4.6)
    plot(accuracy, axes, held_out=held_out)
    return figure


def _render_runs(frame: pd.DataFrame) -> Figure:
    figure, axes = new_figure(width=7.6, height=4.2)
    trade_off(frame, axes)
    return figure
