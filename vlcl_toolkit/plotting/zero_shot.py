"""Zero-shot ability: how pre-training brought it about, and how predictions change."""

from collections.abc import Sequence
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
    domain_marker,
    finish,
    in_style,
)


@in_style
def confusion_change(drift: pd.DataFrame, ax: Axes) -> Axes:
    """Where each class's images went: change of the confusion matrix against the frozen CLIP.

    Args:
        drift: of `analysis.confusion_drift`, points.
    """
    difference_cells(drift, ax, limit=max(25.0, float(np.nanmax(np.abs(drift.to_numpy())))))
    for place in range(len(drift)):
        corner = (float(place), float(place))
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, ec=QUIET, lw=1, zorder=3))
    ax.set_title("images moved (points of each true class)")
    return finish(ax, xlabel="predicted class", ylabel="true class")


@in_style
def pretraining_loss(log: pd.DataFrame, ax: Axes) -> Axes:
    """Contrastive loss over the captioned images seen.

    Args:
        log: columns "samples", "loss".
    """
    ax.plot(log["samples"] / 1e6, log["loss"], color=INK)
    return _over_samples(ax, ylabel="contrastive loss (nats, lower is better)")


@in_style
def pretraining_zero_shot(log: pd.DataFrame, ax: Axes, *, domains: Sequence[str]) -> Axes:
    """Zero-shot accuracy of each domain, and their mean, over the captioned images seen.

    Args:
        log: column "samples", and percent by domain (nan where it was not measured).
        domains: columns to show.
    """
    measured = log.dropna(subset=list(domains), how="all")
    samples = measured["samples"] / 1e6
    mean = measured[list(domains)].mean(axis=1)
    ax.plot(samples, mean, color="#c8c8c8", lw=8, solid_capstyle="round", label="mean")
    for name in domains:
        colour, marker = domain_colour(name), domain_marker(name)
        ax.plot(samples, measured[name], label=name, lw=1.5, ms=5, color=colour, marker=marker)
    ax.set_ylim(0, 100)
    ax.set_yticks(np.arange(0, 101, 20))
    label = "zero-shot accuracy\n(percent, higher is better)"
    return _over_samples(ax, ylabel=label, legend=True)


def _over_samples(ax: Axes, **options: Any) -> Axes:
    ax.set_xlim(left=0)
    return finish(ax, xlabel="captioned images seen (million)", grid="y", **options)
