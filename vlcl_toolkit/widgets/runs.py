"""The runs of a page: finished ones, the one in the background, and their scores as a table."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from vlcl_toolkit.plotting.style import method_colour
from vlcl_toolkit.training.events import Event, RowEvent, StopRun
from vlcl_toolkit.training.loop import run
from vlcl_toolkit.training.results import RunResult, row_names


class Key(NamedTuple):
    """What identifies a run on a page; stream, backbone and seed are the same for all of them."""

    method: str
    order: tuple[str, ...]
    settings: str = "{}"  # as JSON, since values need not be hashable

    @classmethod
    def of(cls, method: str, order: tuple[str, ...], settings: Mapping[str, Any]) -> "Key":
        """The key of a method, an order and settings that override the preset."""
        return cls(method, order, json.dumps(dict(settings), sort_keys=True, default=repr))


Tables = tuple[pd.DataFrame, pd.DataFrame]  # accuracy of the tasks, and of the held-out ones


class KnownRuns:
    """Accuracy tables by run, filled row by row.

    The zero-shot row is the same for every method and order, so it is shared by all runs.

    Attributes:
        results: finished runs.
    """

    def __init__(self, held_out: list[str]):
        self._held_out = held_out
        self._frozen: dict[str, float] = {}
        self._tables: dict[Key, Tables] = {}
        self.results: dict[Key, RunResult] = {}

    def __contains__(self, key: Key) -> bool:
        """Whether the run has started."""
        return key in self._tables

    def tables(self, key: Key) -> Tables:
        """Accuracy `[T+1, T]` and held-out accuracy `[T+1, H]`; nan for what is not known yet."""
        order = list(key.order)
        return self._tables.get(key) or (self._new(order, order), self._new(order, self._held_out))

    def add_row(self, key: Key, event: RowEvent) -> None:
        """Fill in a row."""
        if event.row_index == 0:
            self._frozen = dict(event.accuracies)
        self._tables[key] = self.tables(key)
        for table in self._tables[key]:
            row = [event.accuracies.get(name, float("nan")) for name in table.columns]
            table.iloc[event.row_index] = row

    def add_result(self, key: Key, result: RunResult) -> None:
        """Keep what a run returned, complete or not."""
        self._tables[key] = result.accuracy, result.held_out
        self._frozen = dict(pd.concat([result.accuracy.iloc[0], result.held_out.iloc[0]]))
        if result.complete:
            self.results[key] = result

    def _new(self, order: list[str], columns: list[str]) -> pd.DataFrame:
        table = pd.DataFrame(index=row_names(order), columns=columns, dtype=float)
        table.iloc[0] = [self._frozen.get(name, float("nan")) for name in columns]
        return table


class BackgroundRun:
    """`run`, started in a daemon thread: it ends with the kernel, and resumes from its checkpoint.

    Attributes:
        result: what the run returned; None until then.
        error: the exception that ended it, or None.
        ended: whether it is over; `on_end` may still be at work.
    """

    def __init__(
        self,
        on_event: Callable[[Event], None],
        on_end: Callable[["BackgroundRun"], None],
        *arguments: Any,
        **options: Any,
    ):
        """Prepare.

        Args:
            on_event, on_end: called in the thread; `on_end` once, whatever happened.
            arguments, options: of `run`.
        """
        self.result: RunResult | None = None
        self.error: Exception | None = None
        self.ended = False
        self._on_event, self._on_end = on_event, on_end
        self._arguments, self._options = arguments, options
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="vlcl run", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the run to save a checkpoint and end; returns at once."""
        self._stop.set()

    def wait(self, seconds: int | float | None = None) -> bool:
        """Wait for the end; False if it did not come in time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _listen(self, event: Event) -> None:
        self._on_event(event)
        if self._stop.is_set():
            raise StopRun

    def _work(self) -> None:
        try:
            self.result = run(
                *self._arguments, **self._options, progress=False, callback=self._listen
            )
        except Exception as error:  # noqa: BLE001 (nothing can catch it in a thread: the page shows it)
            self.error = error
        self.ended = True
        self._on_end(self)


COLUMNS = ("transfer", "average", "last", "forgetting")
_HINT = "percent; higher is better, except for Forgetting"


def scores_html(
    lines: Sequence[tuple[str, str, Mapping[str, float], bool]], heading: str = "Order"
) -> str:
    """A line per run, numbered as in the picture of all runs; the frozen CLIP comes first.

    Args:
        lines: method, what tells its runs apart (HTML), scores in percent, and whether it is the
            run shown on the page.
        heading: of what tells runs apart.
    """
    head = "".join(f"<th style='padding:0 .6em'>{name.capitalize()}</th>" for name in COLUMNS)
    body = "".join(_line(number, *line) for number, line in enumerate(lines))
    last = f"<th style='text-align:left;padding-left:.6em'>{heading}</th>"
    table = f"<tr><td></td><th style='text-align:left'>Method</th>{head}{last}</tr>{body}"
    return f"<table style='line-height:1.6'>{table}</table><small>{_HINT}</small>"


def _line(
    number: int, method: str, description: str, scores: Mapping[str, float], shown: bool
) -> str:
    cell = "<td style='text-align:right;padding:0 .6em'>{}</td>"
    cells = "".join(cell.format(_percent(scores[name])) for name in COLUMNS)
    name = f"<span style='color:{method_colour(method)}'>■</span> {method}"
    weight = "bold" if shown else "normal"
    last = f"<td style='padding-left:.6em;font-weight:normal'>{description}</td>"
    first = f"<td>{number or ''}</td><td>{name}</td>"
    return f"<tr style='font-weight:{weight}'>{first}{cells}{last}</tr>"


def _percent(value: float) -> str:
    return "–" if value != value else f"{value:.1f}"  # nan: a single task has no Transfer
