"""The panel that trains: order sliders, method, run and stop, and a matrix that fills row by row."""

import copy
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets
import pandas as pd
from matplotlib.figure import Figure

from vlcl_toolkit.clip import Clip
from vlcl_toolkit.errors import unknown_name
from vlcl_toolkit.events import Event, RowEvent, StepEvent
from vlcl_toolkit.methods import method_names
from vlcl_toolkit.plotting import accuracy_matrix, new_figure, unseen_accuracy
from vlcl_toolkit.results import RunResult
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.widgets.errors import ErrorView, shows_errors
from vlcl_toolkit.widgets.known import Key, KnownRuns
from vlcl_toolkit.widgets.live import BackgroundRun
from vlcl_toolkit.widgets.order import OrderSliders
from vlcl_toolkit.widgets.picture import Picture
from vlcl_toolkit.widgets.scores import frozen_scores, scores_html

_SECONDS = 0.15  # between two movements of the progress bar


class RunPanel(ipywidgets.VBox):
    """Choose an order and a method, train, and watch what is learned and what is lost.

    The panel trains a copy of the backbone, so other cells are not disturbed. Runs of this panel
    are kept: moving the sliders back shows them at once.

    Attributes:
        sliders: the `OrderSliders`. `method`: the drop-down list.
        run_button, stop_button: a stopped run leaves a checkpoint and goes on when run again.
        error_view: shows what went wrong; its `error` is the exception, or None.
    """

    def __init__(
        self,
        stream: TaskStream,
        clip: Clip,
        *,
        methods: Sequence[str] | None = None,
        configs: Mapping[str, Mapping[str, Any]] | None = None,
        seed: int = 0,
        known: Sequence[RunResult] = (),
    ):
        """Build the panel; nothing is trained.

        Args:
            stream: its order is the one to begin with.
            clip: the frozen backbone.
            methods: names to choose from; None: all.
            configs: by method name, settings that override the stream's recipe.
            seed: of every run.
            known: runs of this stream, settings and seed that are shown from the beginning.

        Raises:
            UserError: an unknown method.
        """
        methods = method_names() if methods is None else methods
        for name in (*methods, *(configs or {})):
            if name not in method_names():
                raise unknown_name("method", name, method_names())
        self._clip, self._configs, self._seed = clip, configs or {}, seed
        self._known = KnownRuns([task.name for task in stream.held_out])
        for result in known:
            self._known.add_result((result.method, tuple(result.order)), result)
        self._run: BackgroundRun | None = None
        self._moved_at = 0.0
        self._build(stream, methods)
        self.refresh()

    def _build(self, stream: TaskStream, methods: Sequence[str]) -> None:
        w = ipywidgets
        self.sliders = OrderSliders(stream)
        self.method = w.Dropdown(options=list(methods), description="Method")
        self.run_button = w.Button(description="Run", icon="play", button_style="primary")
        self.stop_button = w.Button(description="Stop", icon="stop", disabled=True)
        self.progress = w.FloatProgress(min=0, max=1, layout={"width": "100%"})
        self.status, self.scores, self.error_view = w.HTML(), w.HTML(), ErrorView()
        self.matrix, self.curves = Picture(width="51%"), Picture(width="48%")
        buttons = w.HBox([self.run_button, self.stop_button])
        right = [self.method, buttons, self.progress, self.status, self.error_view, self.scores]
        column = w.VBox(right, layout={"flex": "1 1 24em", "min_width": "24em"})
        top = w.HBox([self.sliders, column], layout={"flex_flow": "row wrap"})
        pictures = w.HBox([self.matrix, self.curves], layout={"align_items": "flex-start"})
        super().__init__([top, pictures])
        self.run_button.on_click(self.start)
        self.stop_button.on_click(self.stop)
        self.sliders.observe(self.refresh, "order")
        self.method.observe(self.refresh, "value")

    @property
    def key(self) -> Key:
        """Method and order chosen now."""
        return self.method.value, self.sliders.order

    @property
    def running(self) -> bool:
        """Whether a run is going on."""
        return self._run is not None and not self._run.ended

    @property
    def results(self) -> dict[Key, RunResult]:
        """Finished runs by (method, order)."""
        return self._known.results

    @property
    def result(self) -> RunResult | None:
        """The finished run of the method and order chosen now."""
        return self.results.get(self.key)

    # What the reader does.

    @shows_errors
    def start(self, _: object = None) -> None:
        """Train in a thread (the run button)."""
        self.error_view.clear()
        if self.running or self.result is not None:
            return
        what = self.method.value, self.sliders.stream, copy.deepcopy(self._clip)
        options = {"seed": self._seed, "config": self._configs.get(self.method.value)}
        self._run = BackgroundRun(self._on_event, self._on_end, *what, **options)
        self._lock(True)
        self._run.start()

    @shows_errors
    def stop(self, _: object = None) -> None:
        """Ask the run to end with a checkpoint (the stop button)."""
        if self._run is not None:
            self._run.stop()
            self.stop_button.disabled = True
            self.status.value = "Stopping: saving a checkpoint …"

    def wait(self, seconds: int | float | None = None) -> bool:
        """Wait until no run is going on; False if it still is after `seconds`."""
        return self._run is None or self._run.wait(seconds)

    # What the run says, in its thread.

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

    # What the page shows.

    def figure(self) -> Figure:
        """Matrix and curves as one static figure, for readers without a kernel."""
        figure, axes = new_figure(1, 2, width=15, height=4.6, width_ratios=[1.1, 1])
        accuracy, held_out = self._known.tables(self.key)
        accuracy_matrix(accuracy, axes[0], held_out=held_out)
        unseen_accuracy(accuracy, axes[1], held_out=held_out)
        return figure

    @shows_errors
    def refresh(self, _: object = None) -> None:
        """Redraw for the method and order chosen now, from what is known of them."""
        accuracy, held_out = self._known.tables(self.key)
        known = int(accuracy.notna().any(axis=1).sum())
        key = (*self.key, known)
        self.matrix.show(key, functools.partial(_draw, accuracy_matrix, 7.6, accuracy, held_out))
        self.curves.show(key, functools.partial(_draw, unseen_accuracy, 7.2, accuracy, held_out))
        self.scores.value = self._scores_table(accuracy)
        if not self.running:
            self.progress.value = max(0, known - 1) / len(accuracy.columns)
            self.status.value = self._state(known)

    def _show_step(self, event: StepEvent) -> None:
        order = self.sliders.order
        self.progress.value = (event.task_index + (event.step + 1) / event.steps) / len(order)
        place = f"{escape(order[event.task_index])} ({event.task_index + 1} of {len(order)})"
        numbers = f"step {event.step + 1} of {event.steps}, loss {event.losses['loss']:.2f}"
        if not self.stop_button.disabled:  # else "Stopping ..." stays
            self.status.value = f"Learning <b>{place}</b>: {numbers}"

    def _lock(self, running: bool) -> None:
        self.sliders.lock(running)
        self.method.disabled = self.run_button.disabled = running
        self.stop_button.disabled = not running

    def _state(self, known: int) -> str:
        if self.result is not None:
            seconds = self.result.seconds["train"]
            return f"Complete: {seconds:.0f} s of training, in <code>{self.result.folder}</code>"
        if self.key in self._known:
            learned = f"{max(0, known - 1)} of {len(self.sliders.order)} tasks learned"
            return f"Stopped: {learned}. Press Run to go on."
        return "Not run in this order yet. Press Run."

    def _scores_table(self, accuracy: pd.DataFrame) -> str:
        frozen = frozen_scores(accuracy.iloc[0])
        lines = [("zero_shot", self.sliders.order, frozen, self.method.value == "zero_shot")]
        for key, result in self.results.items():
            if key[0] != "zero_shot":  # above, in the order chosen now
                lines.append((*key, result.metrics, key == self.key))
        return scores_html(lines)


def _draw(
    plot: Callable[..., Any], width: float, accuracy: pd.DataFrame, held_out: pd.DataFrame
) -> Figure:
    figure, axes = new_figure(width=width, height=4.6)
    plot(accuracy, axes, held_out=held_out)
    return figure


def run_panel(stream: TaskStream, clip: Clip, **options: Any) -> RunPanel:
    """A `RunPanel`; see there for the options."""
    return RunPanel(stream, clip, **options)
