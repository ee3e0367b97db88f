"""What depends on the order of the tasks: scores, and which domains hurt each other."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from vlcl_toolkit.plotting.style import (
    INK,
    QUIET,
    difference_cells,
    domain_colour,
    finish,
    in_style,
)

_NAMES = {"transfer_change": "Transfer minus that of the frozen CLIP (points"}


@in_style
def order_ranking(scores: pd.DataFrame, ax: Axes, *, column: str = "transfer") -> Axes:
    """Task orders from the best to the worst, each as a strip of its domains' colours and its score.

    Args:
        scores: of `analysis.order_scores`, of one method.
        column: score to rank by, percent, or "transfer_change", points.
    """
    means = scores.groupby("order", sort=False)[column].agg(["mean", "min", "max"]).dropna()
    means = means.sort_values("mean", ascending=column == "forgetting", kind="stable")
    low, high = (float(means["min"].min()), float(means["max"].max())) if len(means) else (0.0, 1.0)
    span = max(high - low, 1.0)
    most = max((len(str(order).split(",")) for order in means.index), default=1)
    cell = 0.09 * span
    start = low - 0.15 * span - most * cell
    for row, (order, values) in enumerate(means.iterrows()):
        for place, name in enumerate(str(order).split(",")):
            corner = (start + place * cell, row - 0.36)
            ax.add_patch(Rectangle(corner, 0.94 * cell, 0.72, color=domain_colour(name)))
        ax.plot([values["min"], values["max"]], [row, row], color=QUIET, lw=5, alpha=0.5)
        ax.plot(values["mean"], row, "o", color=INK)
        ax.text(high + 0.06 * span, row, f"{values['mean']:.1f}", va="center")
    names = sorted({name for order in means.index for name in str(order).split(",")})
    for name in names:
        ax.plot([], [], "s", color=domain_colour(name), ms=10, label=name)
    ax.set_xlim(start - 0.02 * span, high + 0.28 * span)
    ax.set_ylim(len(means) - 0.4, -0.6)
    ax.set_yticks([])
    ticks = [tick for tick in ax.get_xticks() if low - 0.1 * span <= tick <= high + 0.05 * span]
    ax.set_xticks(ticks)
    ax.spines.left.set_visible(False)
    better = "lower" if column == "forgetting" else "higher"
    name = _NAMES.get(column, f"{column.capitalize()} (percent")
    label = f"{name}, {better} is better; bar: worst to best seed)"
    return finish(ax, xlabel=label, legend=bool(names))


@in_style
def pair_effects(matrix: pd.DataFrame, ax: Axes, *, limit: float | int | None = None) -> Axes:
    """Which domains hurt each other: a row per domain learned, a column per domain affected.

    Args:
        matrix: of `analysis.pair_matrix`, points; nan: no such case.
        limit: points that get the strongest colour; by default the largest change. Give two pictures
            the same to compare them.
    """
    largest = float(
        np.abs(matrix.to_numpy(float)[np.isfinite(matrix.to_numpy(float))]).max(initial=0)
    )
    difference_cells(matrix, ax, limit=limit or max(largest, 1.0))
    # A strip of the domains' colours along both sides, a fixed share of the axes wide.
    for place, name in enumerate(matrix.columns):
        look: dict[str, Any] = {"color": domain_colour(str(name)), "clip_on": False}
        above = ax.get_xaxis_transform()
        ax.add_patch(Rectangle((place + 0.03, 1.01), 0.94, 0.015, transform=above, **look))
    for place, name in enumerate(matrix.index):
        look = {"color": domain_colour(str(name)), "clip_on": False}
        beside = ax.get_yaxis_transform()
        ax.add_patch(Rectangle((-0.02, place + 0.03), 0.015, 0.94, transform=beside, **look))
    ax.tick_params(axis="y", pad=9)
    return finish(ax, xlabel="… accuracy changes (points)", ylabel="while learning …")
