"""What a page knows of each run: the rows so far, or the finished result."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from vlcl_toolkit.events import RowEvent
from vlcl_toolkit.results import RunResult, row_names


class Key(NamedTuple):
    """What a run of a page is told by; stream, backbone and seed are the same for all of them."""

    method: str
    order: tuple[str, ...]
    settings: str = "{}"  # as JSON, since values need not be hashable

    @classmethod
    def of(cls, method: str, order: tuple[str, ...], settings: Mapping[str, Any]) -> "Key":
        """The key of a method, an order and settings that override the stream's recipe."""
        return cls(method, order, json.dumps(dict(settings), sort_keys=True, default=repr))


Tables = tuple[pd.DataFrame, pd.DataFrame]  # accuracy of the tasks, and of the held-out ones


class KnownRuns:
    """Accuracy tables by run, filled row by row.

    The zero-shot row is the same for every method and order: known once, known for all.

    Attributes:
        results: finished runs.
    """

    def __init__(self, held_out: list[str]):
        self._held_out = held_out
        self._frozen: dict[str, float] = {}
        self._tables: dict[Key, Tables] = {}
        self.results: dict[Key, RunResult] = {}

    def __contains__(self, key: Key) -> bool:
        """Whether the run was at least begun."""
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
