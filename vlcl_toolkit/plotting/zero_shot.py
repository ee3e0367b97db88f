"""How zero-shot predictions break: margins, classes, confusions."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from vlcl_toolkit.plotting.style import INK, QUIET, difference_cells, domain_colour, in_style


@in_style
def margin_histogram(margins: pd.DataFrame, ax: Axes, *, domain: str, step: int) -> Axes:
    """Margins of a domain's images: of the frozen backbone as an outline, of one step filled.

    What lies left of 0 is classified wrongly; bins end at 0.

    Args:
        margins: of `analysis.margins`.
    """
    table = margins[margins["domain"] == domain]
    width = _bin_width(table["margin"].to_numpy())
    low, high = (table["margin"].min(), table["margin"].max())
    edges = width * np.arange(np.floor(low / width), np.ceil(high / width) + 1.5)
    looks: dict[int, dict[str, Any]] = {
        step: {"color": domain_colour(domain), "alpha": 0.5, "lw": 0},
        0: {"element": "step", "fill": False, "color": INK, "lw": 2},
    }
    for which, look in looks.items():
        shown = table[table["step"] == which]
        name = "frozen backbone" if which == 0 else f"after {shown['after'].iloc[0]}"
        label = f"{name}: {100 * shown['right'].mean():.0f}% right"
        sns.histplot(shown, x="margin", bins=edges.tolist(), label=label, ax=ax, **look)
    ax.axvline(0, ymax=0.75, color=INK, lw=1.2, ls="--")
    ax.set_xlabel(
        "margin of the right class over the best wrong one (logits)\n← wrong      right →"
    )
    ax.set_ylabel(f"images of {domain}")
    ax.grid(True, axis="y")
    ax.set_ylim(top=1.35 * ax.get_ylim()[1])
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper left", fontsize=11)
    return ax


@in_style
def class_breaking(
    classes: pd.DataFrame, ax: Axes, *, domain: str, share: float | int = 0.5
) -> Axes:
    """Change of each class's accuracy, step by step, the classes that lose most on top.

    A frame marks the step at which a class falls below `share` of the frozen backbone's accuracy
    while its domain is not learned; a line the moment from which the domain is learned.

    Args:
        classes: of `analysis.class_accuracy`.
    """
    table = classes[classes["domain"] == domain]
    percent = table.pivot(index="label", columns="step", values="accuracy")
    words = table.drop_duplicates("label").set_index("label")["class_name"]
    untrained = table.drop_duplicates("step").set_index("step")["status"]
    untrained = untrained[untrained.isin(["unseen", "held-out"])]
    change = percent.sub(percent[0], axis=0)
    worst = change[untrained.index].min(axis=1).sort_values(kind="stable").index
    change, percent = change.loc[worst], percent.loc[worst]
    names = table.drop_duplicates("step").set_index("step")["after"]
    columns = ["frozen" if step == 0 else str(names[step]) for step in change.columns]
    shown = pd.DataFrame(change.to_numpy(), index=[str(words[i]) for i in worst], columns=columns)
    difference_cells(shown, ax, limit=100, text=percent.to_numpy())
    for row, label in enumerate(worst):
        curve = percent.loc[label, untrained.index]
        broken = (curve < share * curve.iloc[0]).to_numpy().nonzero()[0]
        if len(broken):
            corner = (float(broken[0]), float(row))
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, ec=INK, lw=2.2, zorder=3))
    if len(untrained) < len(change.columns):
        ax.axvline(len(untrained), color=INK, lw=3)
    ax.set_xlabel("learned last (line: the domain itself from here; framed: broken)", fontsize=10)
    ax.set_title(f"{domain}: percent right, coloured by change")
    return ax


@in_style
def confusion_change(drift: pd.DataFrame, ax: Axes) -> Axes:
    """Where each class's images went: change of the confusion matrix against the frozen backbone.

    Args:
        drift: of `analysis.confusion_drift`, points.
    """
    difference_cells(drift, ax, limit=max(25.0, float(np.nanmax(np.abs(drift.to_numpy())))))
    for place in range(len(drift)):
        corner = (float(place), float(place))
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, ec=QUIET, lw=1, zorder=3))
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    ax.set_title("images moved (points of each true class)")
    return ax


def _bin_width(values: np.ndarray) -> float:
    """A round width with about 30 bins: 1, 2 or 5 times a power of ten."""
    span = max(float(np.ptp(values)), 1e-6)
    power = 10.0 ** np.floor(np.log10(span / 30))
    return float(next(power * m for m in (1, 2, 5, 10) if power * m * 30 >= span))
