"""The accuracy of each task over a run: matrix, curves, changes."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from vlcl_toolkit.plotting.style import (
    EMPTY,
    INK,
    PERCENT,
    QUIET,
    domain_colour,
    domain_marker,
)

Score = Literal["transfer", "average", "last", "forgetting"]


def accuracy_matrix(
    accuracy: pd.DataFrame,
    ax: Axes,
    *,
    held_out: pd.DataFrame | None = None,
    highlight: Score | None = None,
) -> Axes:
    """Heat map of a run: what each task scores on the frozen backbone and after each task.

    The cell of a task at the moment it was learned has a black frame; rows and cells that are not
    known yet stay empty.

    Args:
        accuracy: `[T+1, T]` percent, row 0 zero-shot, then one row per learned task; nan = unknown.
        held_out: `[T+1, H]`, the same rows for tasks that are never learned, shown apart.
        highlight: fade all cells but those that this score is computed from.
    """
    values = accuracy.to_numpy(float)
    rows, tasks = values.shape
    shown = [*_cells(accuracy, 0.0), *([] if held_out is None else _cells(held_out, tasks + 0.35))]
    names = list(accuracy.columns) + ([] if held_out is None else list(held_out.columns))
    kept = None if highlight is None else score_cells(tasks, highlight)
    for x, row, value in shown:
        faded = kept is not None and not (x < tasks and row > 0 and kept[row - 1, int(x)])
        _draw_cell(ax, x, row, value, faded=faded)
    for task in range(tasks):
        ax.add_patch(Rectangle((task, task + 1), 1, 1, fill=False, ec=INK, lw=2.5, zorder=3))
    centres = sorted({x + 0.5 for x, _, _ in shown})
    for centre, name in zip(centres, names, strict=True):
        ax.add_patch(Rectangle((centre - 0.47, -0.16), 0.94, 0.1, color=domain_colour(name)))
    ax.set_xlim(0, max(centres) + 0.5)
    ax.set_ylim(rows, -0.2)
    ax.set_xticks(centres, names)
    ax.set_yticks(np.arange(rows) + 0.5, accuracy.index)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("accuracy on … (percent; framed: just learned)")
    return ax


def score_cells(tasks: int, score: Score) -> np.ndarray:
    """Which cells of the `[T, T]` matrix (without the zero-shot row) a score reads; bool."""
    row, column = np.indices((tasks, tasks))
    return {
        "transfer": row < column,
        "average": np.ones((tasks, tasks), bool),
        "last": row == tasks - 1,
        "forgetting": (row >= column) & (column < tasks - 1),
    }[score]


def unseen_accuracy(
    accuracy: pd.DataFrame, ax: Axes, *, held_out: pd.DataFrame | None = None
) -> Axes:
    """Curves of zero-shot accuracy: each task as long as it is not learned, held-out tasks to the end.

    Args:
        accuracy, held_out: as for `accuracy_matrix`, columns of `accuracy` in the order learned.
    """
    curves = {name: accuracy[name].to_numpy()[: j + 1] for j, name in enumerate(accuracy.columns)}
    if held_out is not None:
        curves |= {str(name): held_out[name].to_numpy() for name in held_out.columns}
    labelled = {}
    for name, curve in curves.items():
        apart = held_out is not None and name in held_out.columns
        ax.plot(
            np.arange(len(curve)),
            curve,
            color=domain_colour(name),
            marker=domain_marker(name),
            linestyle="--" if apart else "-",
            clip_on=False,
        )
        if np.isfinite(curve[0]):
            labelled[f"{name} (never learned)" if apart else name] = (float(curve[0]), name)
    steps = len(accuracy) - 1
    _label_left(ax, labelled)
    ax.set_xlim(-0.12 - 0.36 * steps, steps + 0.1)
    ax.set_ylim(0, 100)
    ticks = ["frozen", *(f"+ {name}" for name in accuracy.columns)]
    ax.set_xticks(range(steps + 1), ticks)
    ax.set_xlabel("learned so far (left to right)")
    ax.set_ylabel("zero-shot " + PERCENT)
    ax.grid(True, axis="y")
    return ax


def accuracy_bars(accuracy: pd.Series, ax: Axes, *, chance: pd.Series | None = None) -> Axes:
    """One bar per task, top to bottom, with its value; a tick marks what guessing would score.

    Args:
        accuracy: percent by task name.
        chance: percent by task name.
    """
    rows = np.arange(len(accuracy))
    names = [str(name) for name in accuracy.index]
    ax.barh(rows, accuracy.to_numpy(), color=[domain_colour(name) for name in names], height=0.66)
    for row, value in zip(rows, accuracy, strict=True):
        ax.text(value + 1, row, f"{value:.0f}", va="center")
    if chance is not None:
        lines = chance[accuracy.index].to_numpy()
        ax.vlines(lines, rows - 0.42, rows + 0.42, color=INK, lw=2.5, label="guessing")
        ax.legend(loc="lower right")
    ax.set_yticks(rows, names)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, 105)
    ax.tick_params(axis="y", length=0)
    ax.spines.left.set_visible(False)
    ax.set_xlabel(PERCENT)
    return ax


def accuracy_change(change: pd.DataFrame, ax: Axes) -> Axes:
    """An arrow per task from one accuracy to another, with the difference in points.

    Args:
        change: percent; rows: tasks, two columns: from, to, named as the axis should say.
    """
    start, end = change.columns
    for row, (name, (before, after)) in enumerate(
        zip(change.index, change.to_numpy(float), strict=True)
    ):
        colour = domain_colour(str(name))
        ax.plot(before, row, "o", color="white", mec=colour, mew=2.5, ms=9, zorder=3)
        ax.annotate(
            "",
            (after, row),
            (before, row),
            arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 3, "shrinkA": 5, "shrinkB": 0},
        )
        ax.text(101, row, f"{after - before:+.0f}", va="center", fontweight="bold")
    ax.text(101, -0.75, "points", fontsize=10, color=QUIET)
    ax.set_yticks(range(len(change)), [str(name) for name in change.index])
    ax.set_ylim(len(change) - 0.5, -1)
    ax.set_xlim(0, 112)
    ax.set_xticks(range(0, 101, 20))
    ax.tick_params(axis="y", length=0)
    ax.grid(True, axis="x")
    ax.set_xlabel(f"percent correct: from {start} (ring) to {end} (tip)")
    return ax


def _cells(frame: pd.DataFrame, left: float) -> list[tuple[float, int, float]]:
    table = frame.to_numpy(float)
    return [(left + j, i, value) for i, row in enumerate(table) for j, value in enumerate(row)]


def _draw_cell(ax: Axes, x: float, row: int, value: float, *, faded: bool) -> None:
    # 125, not 100: the darkest end of the map would hide the frames.
    colour = EMPTY if np.isnan(value) or faded else colormaps["YlGnBu"](value / 125)
    ax.add_patch(Rectangle((x + 0.015, row + 0.02), 0.97, 0.96, color=colour, lw=0))
    if not np.isnan(value):
        text = QUIET if faded else ("white" if value > 62 else INK)
        weight = "normal" if faded else "medium"
        centre = (x + 0.5, row + 0.5)
        ax.text(*centre, f"{value:.1f}", ha="center", va="center", color=text, fontweight=weight)


def _label_left(ax: Axes, labelled: dict[str, tuple[float, str]], gap: float = 7.0) -> None:
    """Name curves at their first point, pushed apart, a thin line from each name to its point."""
    order = sorted(labelled, key=lambda text: labelled[text][0])
    places = _spread([labelled[text][0] for text in order], gap)
    for text, place in zip(order, places, strict=True):
        value, name = labelled[text]
        ax.plot([-0.3, -0.04], [place, value], color=domain_colour(name), lw=1)
        ax.text(-0.34, place, text, ha="right", va="center")


def _spread(values: Sequence[float], gap: float) -> list[float]:
    """Ascending values moved as little as needed to stand at least `gap` apart."""
    places = list(values)
    for _ in range(200):
        for i in range(len(places) - 1):
            short = gap - (places[i + 1] - places[i])
            if short > 1e-6:
                places[i] -= short / 2
                places[i + 1] += short / 2
    return places
