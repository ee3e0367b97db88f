"""Which route images take, how strongly prompts act on them, and which experts work."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from vlcl_toolkit.plotting.interference import heat
from vlcl_toolkit.plotting.style import (
    INK,
    PERCENT,
    QUIET,
    domain_colour,
    domain_marker,
    finish,
    in_style,
)


@in_style
def decision_matrix(decisions: pd.DataFrame, ax: Axes) -> Axes:
    """True domain by chosen route, percent of the domain's images; frames mark the right route.

    Args:
        decisions: of `route_decisions`.
    """
    table = decisions.pivot(index="domain", columns="route", values="share")
    rows, columns = (list(dict.fromkeys(decisions[name])) for name in ("domain", "route"))
    table = table.loc[rows, columns]
    heat(ax, table, "Blues", numbers="{:.0f}").set_clim(0, 100)
    for _, cell in decisions[decisions["own"]].iterrows():
        _frame(ax, columns.index(cell["route"]), rows.index(cell["domain"]))
    status = decisions.drop_duplicates("domain").set_index("domain")["status"]
    ax.set_yticks(range(len(rows)), [f"{name} ({status[name]})" for name in rows])
    ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    label = "chosen route (percent of the domain's images;\nframe: the right one)"
    return finish(ax, xlabel=label, ylabel="true domain")


@in_style
def threshold_curves(
    sweep: pd.DataFrame, ax: Axes, *, now: float | int | None = None, relative: bool = False
) -> Axes:
    """Accuracy of every domain over the selector's threshold; dashed: domains not learned.

    Args:
        sweep: of `threshold_sweep`.
        now: the threshold of the run, shown as a line.
        relative: thresholds are multiples of the run's own.
    """
    for domain, rows in sweep.groupby("domain", sort=False):
        name, status = str(domain), rows["status"].iloc[0]
        look: dict[str, Any] = {
            "color": domain_colour(name),
            "marker": domain_marker(name),
            "ms": 4,
        }
        ls = "-" if status in ("learned", "current") else "--"
        ax.plot(rows["threshold"], rows["accuracy"], ls=ls, label=f"{name} ({status})", **look)
    mean = sweep.groupby("threshold")["accuracy"].mean()
    ax.plot(mean, color=INK, lw=3, label="mean of all")
    if now is not None:
        ax.axvline(now, color=QUIET, ls=":", label="threshold of the run")
    label = "threshold: reconstruction error above which an image belongs to no task"
    if relative:
        label = "threshold / the run's own (0: every image takes the frozen CLIP)"
    return finish(ax, xlabel=label, ylabel=PERCENT, grid="y", legend=True)


@in_style
def batch_mix_curves(mix: pd.DataFrame, ax: Axes, *, domain: str) -> Axes:
    """Accuracy on one domain over its share of the test batch: deciding together, or each alone.

    Args:
        mix: of `batch_mix` for `domain`.
    """
    for decision, rows in mix.groupby("decision", sort=False):
        together = decision == "batch"
        ax.plot(
            rows["mix"],
            rows["accuracy"],
            color=domain_colour(domain) if together else INK,
            ls="-" if together else "--",
            marker=domain_marker(domain) if together else "",
            label="the batch decides together" if together else "each image decides alone",
        )
    ax.set_xlim(0, 103)
    return finish(
        ax,
        xlabel=f"{domain}'s share of the test batch (percent)",
        ylabel=f"accuracy on {domain}\n(percent, higher is better)",
        grid="y",
        legend=True,
    )


@in_style
def mixed_batch_bars(mixed: pd.DataFrame, ax: Axes) -> Axes:
    """Accuracy on every domain: the batch decides together (bar), each image alone (line).

    Args:
        mixed: of `mixed_batches`.
    """
    table = mixed.pivot(index="domain", columns="decision", values="accuracy")
    table = table.loc[list(dict.fromkeys(mixed["domain"]))]
    places = np.arange(len(table))
    colours = [domain_colour(str(name)) for name in table.index]
    ax.bar(places, table["batch"], color=colours, width=0.7, label="the batch decides together")
    ax.hlines(
        table["sample"], places - 0.42, places + 0.42, color=INK, lw=3, label="each image alone"
    )
    for place, value in zip(places, table["batch"], strict=True):
        ax.annotate(f"{value:.0f}", (place, 2), ha="center", color="white", weight="bold")
    status = mixed.drop_duplicates("domain").set_index("domain")["status"]
    ax.set_xticks(places, [f"{name}\n({status[name]})" for name in table.index])
    ax.set_ylim(0, 105)
    ax.set_title(f"each domain is {mixed['mix'].iloc[0]:g} percent of its test batch")
    return finish(ax, ylabel=PERCENT, grid="y", legend=True)


@in_style
def calibration_strips(calibration: pd.DataFrame, ax: Axes) -> Axes:
    """A row per domain, a dot per image at its weight, in the colour of the task whose prompts it gets.

    Args:
        calibration: of `calibration`.
    """
    names = list(dict.fromkeys(calibration["domain"]))
    labelled = set[str]()
    for (domain, route), images in calibration.groupby(["domain", "route"], sort=False):
        row, task = names.index(str(domain)), str(route)
        spread = np.linspace(-0.28, 0.28, len(images))  # so that dots do not hide each other
        label = None if task in labelled else f"gets the prompts of {task}"
        labelled.add(task)
        look: dict[str, Any] = {"color": domain_colour(task), "marker": domain_marker(task)}
        ax.scatter(images["strength"], row + spread, label=label, lw=0, s=16, alpha=0.7, **look)
    means = calibration.groupby("domain")["strength"].mean()
    for row, name in enumerate(names):
        ax.vlines(means[name], row - 0.38, row + 0.38, color=INK, lw=2.5)
    status = calibration.drop_duplicates("domain").set_index("domain")["status"]
    ax.set_yticks(range(len(names)), [f"{name} ({status[name]})" for name in names])
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    label = "weight of the prompts (0: frozen CLIP, 1: as trained; line: mean)"
    return finish(ax, xlabel=label, grid="x", legend=True)


@in_style
def strength_curves(strength: pd.DataFrame, ax: Axes) -> Axes:
    """Accuracy of every domain over a weight given to all images; dashed: domains not learned.

    A ring marks the mean weight that the method itself gives the domain.

    Args:
        strength: of `prompt_strength`.
    """
    ring: dict[str, Any] = {"marker": "o", "ls": "none", "mfc": "none", "mew": 2, "zorder": 3}
    for domain, rows in strength.groupby("domain", sort=False):
        name, status, own = str(domain), rows["status"].iloc[0], rows["own"].iloc[0]
        ls = "-" if status == "learned" else "--"
        colour, marker = domain_colour(name), domain_marker(name)
        values = rows["strength"], rows["accuracy"]
        ax.plot(*values, color=colour, marker=marker, ls=ls, label=f"{name} ({status})")
        ax.plot(own, np.interp(own, *values), mec=INK, ms=14, **ring)
    ax.plot([], [], mec=QUIET, ms=10, label="the method's own mean weight", **ring)
    label = "weight of the prompts (0: frozen CLIP, 1: as trained)"
    return finish(ax, xlabel=label, ylabel=PERCENT, grid="y", legend=True)


@in_style
def expert_use_heat(use: pd.DataFrame, ax: Axes, *, block: int | None = None) -> Axes:
    """Domains by experts: share of a domain's choices in one block, percent.

    Args:
        use: of `expert_use`.
        block: from 1; None: the last.
    """
    chosen = use["block"].max() if block is None else block
    rows = use[use["block"] == chosen]
    table = 100 * rows.pivot(index="domain", columns="expert", values="share")
    table = table.loc[list(dict.fromkeys(rows["domain"]))]
    heat(ax, table, "Greens", numbers="{:.0f}").set_clim(0, 100)
    return finish(ax, xlabel=f"expert of block {chosen} (percent of the domain's choices)")


@in_style
def expert_block_heat(use: pd.DataFrame, ax: Axes, *, domain: str) -> Axes:
    """Blocks by experts for one domain, percent of its choices in each block.

    Args:
        use: of `expert_use`.
    """
    rows = use[use["domain"] == domain]
    table = 100 * rows.pivot(index="block", columns="expert", values="share")
    heat(ax, table, "Greens", numbers="{:.0f}").set_clim(0, 50)
    label = f"expert (percent of the choices of {domain}; –: none of its images chose)"
    return finish(ax, xlabel=label, ylabel="block")


@in_style
def expert_overlap_heat(overlap: pd.DataFrame, ax: Axes) -> Axes:
    """Domains by domains: experts they share, mean over blocks; 1 = the same use.

    Args:
        overlap: of `expert_overlap`.
    """
    names = list(dict.fromkeys(overlap["domain"]))
    table = overlap.pivot_table(index="domain", columns="other", values="overlap", dropna=False)
    heat(ax, table.reindex(index=names, columns=names), "Purples", numbers="{:.2f}").set_clim(0, 1)
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
    return finish(ax, xlabel="overlap of expert use (0 = none in common, 1 = the same)")


@in_style
def freezing_bars(protection: pd.DataFrame, ax: Axes) -> Axes:
    """Share of each task's choices that fall on experts later tasks left alone, mean over blocks.

    Args:
        protection: of `freezing_protects`.
    """
    table = protection.assign(protected=100 * protection["protected"])
    mean = table.groupby("domain", sort=False)["protected"].mean()
    colours = {name: domain_colour(str(name)) for name in mean.index}
    look: dict[str, Any] = {"width": 0.7, "saturation": 1, "err_kws": {"color": INK, "lw": 1.5}}
    bars: dict[str, Any] = {"x": "domain", "y": "protected", "hue": "domain", "palette": colours}
    sns.barplot(table, errorbar=("pi", 100), legend=False, ax=ax, **bars, **look)
    for place, value in enumerate(mean):
        if np.isfinite(value):
            ax.annotate(f"{value:.0f}", (place, 2), ha="center", color="white", weight="bold")
    ax.set_xticks(range(len(mean)), list(mean.index), rotation=20, ha="right")
    ax.set_ylim(0, 105)
    return finish(
        ax,
        xlabel="task, in the order learned (line: from the worst block to the best)",
        ylabel="choices on experts that later tasks\nleft alone (percent, higher is better)",
    )


def _frame(ax: Axes, column: int, row: int) -> None:
    ax.plot(
        [column - 0.47, column + 0.47, column + 0.47, column - 0.47, column - 0.47],
        [row - 0.45, row - 0.45, row + 0.45, row + 0.45, row - 0.45],
        color="#D55E00",
        lw=2.2,
        clip_on=False,
    )
