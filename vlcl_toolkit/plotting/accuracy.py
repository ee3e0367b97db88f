"""The accuracy of each task over a run: matrix, curves, changes."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from vlcl_toolkit.plotting.style import (
    EMPTY,
    INK,
    PERCENT,
    QUIET,
    domain_colour,
    domain_marker,
    finish,
    in_style,
)

Score = Literal["transfer", "average", "last", "forgetting"]


@in_style
def accuracy_matrix(
    accuracy: pd.DataFrame,
    ax: Axes,
    *,
    held_out: pd.DataFrame | None = None,
    highlight: Score | None = None,
) -> Axes:
    """Heat map of a run: what each task scores on the frozen CLIP and after each task.

    The cell of a task at the moment it was learned has a black frame; rows and cells that are not
    known yet stay empty.

    Args:
        accuracy: `[T+1, T]` percent, row 0 zero-shot, then one row per learned task; nan = unknown.
        held_out: `[T+1, H]`, the same rows for tasks that are never learned, shown apart.
        highlight: fade all cells but those that this score is computed from.
    """
    rows, tasks = accuracy.shape
    kept = np.ones((rows, tasks), bool)
    if highlight is not None:
        kept = np.vstack([np.zeros((1, tasks), bool), score_cells(tasks, highlight)])
    centres = _cells(accuracy, ax, 0.0, kept)
    if held_out is not None and len(held_out.columns):
        shown = np.full(held_out.shape, highlight is None)
        centres |= _cells(held_out, ax, tasks + 0.35, shown)
    for task in range(tasks):
        ax.add_patch(Rectangle((task, task + 1), 1, 1, fill=False, ec=INK, lw=2.5, zorder=3))
    right = max(centres.values()) + 0.5
    ax.set_xlim(-0.02, right + 0.02)
    ax.set_ylim(rows + 0.02, -0.2)
    slanted: dict[str, Any] = (
        {"rotation": 35, "ha": "left", "rotation_mode": "anchor"} if len(centres) > 8 else {}
    )
    ax.xaxis.tick_top()
    ax.set_xticks(list(centres.values()), list(centres), **slanted)
    ax.set_yticks(np.arange(rows) + 0.5, accuracy.index)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return finish(ax, xlabel="accuracy on … (percent, higher is better; framed: just learned)")


def score_cells(tasks: int, score: Score) -> np.ndarray:
    """Which cells of the `[T, T]` matrix (without the zero-shot row) a score is computed from; bool."""
    row, column = np.indices((tasks, tasks))
    return {
        "transfer": row < column,
        "average": np.ones((tasks, tasks), bool),
        "last": row == tasks - 1,
        "forgetting": (row >= column) & (column < tasks - 1),
    }[score]


@in_style
def unseen_accuracy(
    accuracy: pd.DataFrame, ax: Axes, *, held_out: pd.DataFrame | None = None
) -> Axes:
    """Zero-shot accuracy of each task as long as it is not learned, of held-out tasks to the end.

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
            labelled[name] = float(curve[0])
    stages = len(accuracy) - 1
    _label_left(ax, labelled, stages)
    ax.set_xlim(-0.26 * stages, stages * 1.02)
    top = max((np.nanmax(c) for c in curves.values() if np.isfinite(c).any()), default=90.0)
    ax.set_ylim(0, min(100.0, 10 * np.ceil(top / 10 + 0.8)))
    crowded = sum(map(len, accuracy.columns)) > 45
    turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if crowded else {}
    ax.set_xticks(range(stages + 1), ["frozen", *accuracy.columns], fontsize=11, **turned)
    dashed = "" if held_out is None or held_out.empty else " (dashed: never learned)"
    label = "accuracy before learning\n(percent, higher is better)"
    return finish(ax, xlabel=f"learned last{dashed}", ylabel=label, grid="y")


@in_style
def accuracy_bars(accuracy: pd.Series, ax: Axes, *, chance: pd.Series | None = None) -> Axes:
    """One bar per task, top to bottom, with its value; a tick marks chance level.

    Args:
        accuracy: percent by task name.
        chance: percent by task name.
    """
    rows = np.arange(len(accuracy))
    names = [str(name) for name in accuracy.index]
    ax.barh(rows, accuracy.to_numpy(), color=[domain_colour(name) for name in names], height=0.66)
    for row, value in enumerate(accuracy):
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
    return finish(ax, xlabel=PERCENT)


@in_style
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
        if abs(after - before) >= 2:  # a shorter arrow would hide in the ring
            arrow = {"arrowstyle": "-|>", "color": colour, "lw": 3, "shrinkA": 5, "shrinkB": 0}
            ax.annotate("", (after, row), (before, row), arrowprops=arrow)
        ax.text(101, row, _signed(after - before), va="center", fontweight="bold")
    ax.text(101, -0.75, "points", fontsize=10, color=QUIET)
    ax.set_yticks(range(len(change)), [str(name) for name in change.index])
    ax.set_ylim(len(change) - 0.5, -1)
    ax.set_xlim(0, 112)
    ax.set_xticks(range(0, 101, 20))
    ax.tick_params(axis="y", length=0)
    return finish(ax, xlabel=f"percent correct: from {start} (ring) to {end} (tip)", grid="x")


def _signed(points: float) -> str:
    return f"{points:+.0f}".replace("-", "−")


def _cells(frame: pd.DataFrame, ax: Axes, left: float, kept: np.ndarray) -> dict[str, float]:
    """A block of cells; returns the centre of each column."""
    values = frame.to_numpy(float)
    rows, columns = values.shape
    # 125, not 100: the darkest end of the map would hide the frames.
    colours = np.where(
        (kept & np.isfinite(values))[..., None],
        colormaps["YlGnBu"](np.nan_to_num(values) / 125),
        to_rgba(EMPTY),
    )
    edges = left + np.arange(columns + 1)
    ax.pcolormesh(edges, np.arange(rows + 1), colours, edgecolors="white", linewidth=2)
    dark = colours[..., :3] ** 2.2 @ (0.2126, 0.7152, 0.0722) < 0.26  # white reads better there
    for row, column in zip(*np.isfinite(values).nonzero(), strict=True):
        ink = ("white" if dark[row, column] else INK) if kept[row, column] else QUIET
        place = (left + column + 0.5, row + 0.5)
        text = f"{values[row, column]:.1f}"
        number = ax.text(*place, text, ha="center", va="center", color=ink)
        number.set_in_layout(
            False
        )  # it lies inside its cell: this saves a third of the rendering time
    centres = {str(name): left + i + 0.5 for i, name in enumerate(frame.columns)}
    for name, centre in centres.items():
        ax.add_patch(Rectangle((centre - 0.47, -0.16), 0.94, 0.1, color=domain_colour(name)))
    return centres


def _label_left(ax: Axes, starts: dict[str, float], stages: int, gap: float = 7.0) -> None:
    """Name curves at their first point, pushed apart, a thin line from each name to its point."""
    order = sorted(starts, key=lambda name: starts[name])
    places = _spread([starts[name] for name in order], gap)
    for name, place in zip(order, places, strict=True):
        line = [-0.05 * stages, -0.01 * stages]
        ax.plot(line, [place, starts[name]], color=domain_colour(name), lw=1)
        ax.text(-0.06 * stages, place, name, ha="right", va="center")


def _spread(values: Sequence[float], gap: float) -> list[float]:
    """Ascending values, moved as little as needed to be at least `gap` apart."""
    places = list(values)
    for _ in range(200):
        for i in range(len(places) - 1):
            short = gap - (places[i + 1] - places[i])
            if short > 1e-6:
                places[i] -= short / 2
                places[i + 1] += short / 2
    return places
