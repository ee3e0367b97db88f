"""How strongly prompts act on each domain, and what that does to accuracy."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vlcl_toolkit.plotting.style import INK, PERCENT, QUIET, domain_colour, domain_marker, in_style


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
    ax.set_xlabel("weight of the prompts (0: frozen CLIP, 1: as trained; line: mean)")
    ax.grid(True, axis="x")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


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
    ax.set_xlabel("weight of the prompts (0: frozen CLIP, 1: as trained)")
    ax.set_ylabel(PERCENT)
    ax.grid(True, axis="y")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax
