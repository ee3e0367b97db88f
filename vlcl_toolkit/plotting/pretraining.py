"""How the miniature became what it is: its pre-training log."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vlcl_toolkit.plotting.style import INK, domain_colour, domain_marker, in_style


@in_style
def pretraining_loss(log: pd.DataFrame, ax: Axes) -> Axes:
    """Contrastive loss over the captioned images seen.

    Args:
        log: columns "samples", "loss".
    """
    ax.plot(log["samples"] / 1e6, log["loss"], color=INK)
    ax.set_ylabel("contrastive loss (nats, lower is better)")
    return _samples_axis(ax)


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
    ax.set_ylabel("zero-shot accuracy\n(percent, higher is better)")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return _samples_axis(ax)


def _samples_axis(ax: Axes) -> Axes:
    ax.set_xlim(left=0)
    ax.set_xlabel("captioned images seen (million)")
    ax.grid(True, axis="y")
    return ax
