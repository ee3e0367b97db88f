"""Accuracy along the line from frozen to trained weights."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from vlcl_toolkit.plotting.style import PERCENT, domain_colour, domain_marker

_LINES = {"learned": "-", "unseen": "--", "held-out": ":"}


def weight_path_curves(path: pd.DataFrame, ax: Axes, *, share: float | int | None = None) -> Axes:
    """One line per task: solid if it was learned, dashed if not, dotted if held out.

    Args:
        path: columns share, task, status, accuracy (see `weight_path`).
        share: a position on the line to mark.
    """
    for (task, status), rows in path.groupby(["task", "status"], sort=False):
        look: dict[str, Any] = {
            "color": domain_colour(task),
            "marker": domain_marker(task),
            "ls": _LINES[status],
        }
        ax.plot(rows["share"], rows["accuracy"], label=f"{task} ({status})", **look)
    if share is not None:
        ax.axvline(share, color="#222222", lw=1, ls=":")
    ax.set_xlabel("share of the trained weights (0: frozen CLIP, 1: end of the run)")
    ax.set_ylabel(PERCENT)
    ax.grid(True, axis="y")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax
