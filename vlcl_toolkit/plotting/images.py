"""Images of a stream, and how a model classifies one of them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from vlcl_toolkit.plotting.style import INK, QUIET, domain_colour, finish, in_style
from vlcl_toolkit.streams.base import Task


@in_style
def domain_examples(tasks: Sequence[Task], ax: Axes, *, columns: int = 8) -> Axes:
    """A row per task: a training image of each of its first classes, with the class names.

    Args:
        tasks: e.g. a stream, or `(*stream, *stream.held_out)`.
        columns: classes shown of each task.
    """
    for row, task in enumerate(tasks):
        y = row * 1.32
        ax.add_patch(Rectangle((-0.14, y), 0.07, 1, color=domain_colour(task.name), lw=0))
        ax.text(-0.24, y + 0.5, task.name, ha="right", va="center", fontweight="bold")
        for column, name in enumerate(task.class_names[:columns]):
            position = int((task.train.labels == column).nonzero()[0])
            _place_image(ax, task.train[position][0], column, y, name)
    _fit(ax, columns, len(tasks) * 1.32, left=-1.3)
    return ax


@in_style
def order_strip(tasks: Sequence[Task], ax: Axes, *, label: int = 0) -> Axes:
    """The order of learning as a strip: one picture per task, numbered, left to right.

    Args:
        tasks: in the order in which they are learned, e.g. a reordered stream.
        label: class whose first training image stands for the task.
    """
    for column, task in enumerate(tasks):
        place = column * 1.35
        position = int((task.train.labels == label % len(task.class_names)).nonzero()[0])
        _place_image(ax, task.train[position][0], place, 0, "")
        ax.add_patch(Rectangle((place, -0.1), 1, 0.08, color=domain_colour(task.name), lw=0))
        text = f"{column + 1}  {task.name}"
        ax.text(place + 0.5, 1.22, text, ha="center", va="center", fontweight="bold")
        if column:
            tip, tail = (place - 0.04, 0.5), (place - 0.31, 0.5)
            ax.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "color": QUIET, "lw": 2})
    _fit(ax, len(tasks) * 1.35 - 0.35, 1.4)
    return ax


@in_style
def class_probabilities(
    probabilities: pd.Series, ax: Axes, *, truth: str | None = None, top: int = 5
) -> Axes:
    """Bars of the most probable classes; the right one is dark, whether it came first or not.

    Args:
        probabilities: in [0, 1], by class name.
        truth: the right class.
        top: classes shown (and the right one, if it is not among them).
    """
    ranked = probabilities.sort_values(ascending=False, kind="stable")
    shown = ranked.head(top)
    if truth is not None and truth not in shown.index:
        shown = pd.concat([shown.iloc[:-1], ranked[[truth]]])
    percent = 100 * shown.to_numpy(float)
    rows = np.arange(len(shown))
    colours = [INK if name == truth else "#b9b9b9" for name in shown.index]
    ax.barh(rows, percent, color=colours, height=0.66)
    for row, value in enumerate(percent):
        ax.text(value + 2, row, f"{value:.0f}", va="center")
    names = [f"{name} ✓" if name == truth else str(name) for name in shown.index]
    ax.set_yticks(rows, names)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, 115)
    ax.set_xticks([0, 50, 100])
    ax.tick_params(axis="y", length=0)
    ax.spines.left.set_visible(False)
    return finish(ax, xlabel="probability (percent)")


@in_style
def show_image(image: UInt8[Tensor, "3 h w"], ax: Axes, title: str = "") -> Axes:
    """One image, without interpolation."""
    _place_image(ax, image, 0, 0, title)
    _fit(ax, 1, 1.2 if title else 1)
    return ax


def _place_image(ax: Axes, image: Tensor, x: int | float, y: int | float, title: str) -> None:
    pixels = torch.movedim(image, 0, -1).numpy()
    ax.imshow(pixels, extent=(x + 0.03, x + 0.97, y + 0.97, y + 0.03), interpolation="nearest")
    ax.text(x + 0.5, y + 1.1, title, ha="center", va="center", fontsize=11)


def _fit(ax: Axes, width: int | float, height: int | float, left: float = 0.0) -> None:
    ax.set_xlim(left, width)
    ax.set_ylim(height, -0.12)
    ax.set_aspect("equal")
    ax.axis("off")
