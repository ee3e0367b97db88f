"""Methods side by side, and one method over its learning rate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from vlcl_toolkit.plotting.style import (
    INK,
    PERCENT,
    QUIET,
    domain_colour,
    domain_marker,
    finish,
    in_style,
    method_colour,
    method_marker,
)


@in_style
def method_comparison(
    scores: pd.DataFrame, ax: Axes, *, columns: Sequence[str] = ("transfer", "average", "last")
) -> Axes:
    """Scores of each method: a small dot per run, a large marker and a number for their mean.

    Args:
        scores: one row per run (method, seed, order); column "method" and the score columns,
            percent.
        columns: the scores to show, left to right.
    """
    methods = list(dict.fromkeys(scores["method"]))
    width = 0.8 / len(methods)
    # Horizontal as long as there is room; else rotated.
    upright = 90 if len(methods) > 4 else 0
    above: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "rotation": upright}
    for number, method in enumerate(methods):
        runs = scores[scores["method"] == method]
        places = np.arange(len(columns)) + (number + 0.5) * width - 0.4
        look: dict[str, Any] = {"color": method_colour(method), "linestyle": "none"}
        for place, column in zip(places, columns, strict=True):
            values = runs[column].to_numpy(float)
            ax.plot(np.full(len(values), place), values, marker="o", ms=4, alpha=0.55, **look)
            if np.isfinite(values).any():
                mean = float(np.nanmean(values))
                top = (float(place), float(np.nanmax(values)))
                ax.annotate(f"{mean:.1f}", top, (0, 9), fontsize=10, **above)
        means = [runs[column].mean() for column in columns]
        label = f"{method} ({len(runs)} run{'s' if len(runs) > 1 else ''})"
        ax.plot(places, means, marker=method_marker(method), ms=11, label=label, **look)
    ax.set_xticks(range(len(columns)), [column.capitalize() for column in columns])
    ax.set_xlim(-0.5, len(columns) - 0.5)
    for edge in range(1, len(columns)):
        ax.axvline(edge - 0.5, color="#e4e4e4", zorder=0)
    ax.tick_params(axis="x", length=0)
    ax.margins(y=0.16 if upright else 0.12)
    return finish(ax, ylabel="score (percent, higher is better)", grid="y", legend=True)


@in_style
def trade_off(runs: pd.DataFrame, ax: Axes) -> Axes:
    """Each run as a numbered point: what it learned, over what became of untrained abilities.

    Both are differences from the frozen CLIP in the same order, which is the ring at (0, 0), so
    that runs in different orders can be compared.

    Args:
        runs: a row per run; columns "method", "transfer" and "last" (points against the frozen
            backbone), and "shown" (true: emphasised). Points are numbered from 1.
    """
    ax.axhline(0, color="#e4e4e4", zorder=0)
    ax.axvline(0, color="#e4e4e4", zorder=0)
    ax.plot(0, 0, "o", mfc="white", mec=QUIET, mew=2, ms=9, label="frozen CLIP")
    named = set()
    for number, run in enumerate(runs.itertuples(), start=1):
        if np.isnan(run.transfer):  # a single task has no Transfer
            continue
        label = None if run.method in named else run.method
        named.add(run.method)
        look: dict[str, Any] = {"color": method_colour(run.method), "ls": "none"}
        edge = {"mec": INK, "mew": 2} if run.shown else {"mew": 0}
        marker = method_marker(run.method)
        ax.plot(run.transfer, run.last, marker=marker, ms=13, label=label, **look, **edge)
        place = (run.transfer, run.last)
        ax.annotate(str(number), place, (9, 6), textcoords="offset points", fontsize=11)
    ax.margins(0.15)
    return finish(
        ax,
        xlabel="abilities not yet trained: Transfer\n(points against the frozen CLIP, higher is better)",
        ylabel="all tasks at the end: Last\n(points, higher is better)",
        legend=True,
    )


@in_style
def learning_rate_curves(
    scores: pd.DataFrame, ax: Axes, *, frozen_transfer: float | None = None
) -> Axes:
    """What the learning rate buys and costs: accuracy on the task being learned, and Transfer.

    Lines are means over runs, bands reach from the worst run to the best; a vertical line marks
    the rate with the best mean validation accuracy.

    Args:
        scores: one row per run; columns "learning_rate", "validation" (mean over the tasks of the
            validation accuracy right after learning each), "transfer"; percent.
        frozen_transfer: Transfer of the frozen CLIP, as a dashed line.
    """
    looks = {
        "validation": ("#0072B2", "o", "task just learned (validation)"),
        "transfer": ("#D55E00", "s", "tasks not yet learned (Transfer)"),
    }
    for column, (colour, marker, label) in looks.items():
        look: dict[str, Any] = {"color": colour, "mec": colour, "marker": marker, "label": label}
        sns.lineplot(scores, x="learning_rate", y=column, errorbar=("pi", 100), ax=ax, **look)
    if frozen_transfer is not None:
        label = "Transfer of the frozen CLIP"
        ax.axhline(frozen_transfer, color=QUIET, ls="--", label=label)
    best = float(scores.groupby("learning_rate")["validation"].mean().idxmax())
    ax.axvline(best, color=INK, lw=1, ls=":", label=f"validation prefers {_short(best)}")
    ax.set_xscale("log")
    rates = sorted(set(scores["learning_rate"]))
    ax.set_xticks(rates, [_short(rate) for rate in rates])
    ax.minorticks_off()
    return finish(
        ax, xlabel="peak learning rate (log scale)", ylabel=PERCENT, grid="y", legend=True
    )


def _short(rate: float) -> str:
    return np.format_float_scientific(rate, precision=2, trim="-", exp_digits=1)


_LINES = {"learned": "-", "unseen": "--", "held-out": ":"}


@in_style
def weight_path_curves(path: pd.DataFrame, ax: Axes, *, alpha: float | int | None = None) -> Axes:
    """One line per task: solid if it was learned, dashed if not, dotted if held out.

    Args:
        path: columns alpha, domain, status, accuracy (of `analysis.weight_path`).
        alpha: a position on the line to mark.
    """
    for (domain, status), rows in path.groupby(["domain", "status"], sort=False):
        look: dict[str, Any] = {
            "color": domain_colour(domain),
            "marker": domain_marker(domain),
            "ls": _LINES[status],
        }
        ax.plot(rows["alpha"], rows["accuracy"], label=f"{domain} ({status})", **look)
    if alpha is not None:
        ax.axvline(alpha, color="#222222", lw=1, ls=":")
    label = "alpha, the weight of the trained model (0: frozen CLIP, 1: end of the run)"
    return finish(ax, xlabel=label, ylabel=PERCENT, grid="y", legend=True)
