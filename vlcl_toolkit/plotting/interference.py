"""Where a method interferes with the frozen CLIP: drift, towers, attention."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from vlcl_toolkit.plotting.style import (
    INK,
    QUIET,
    domain_colour,
    domain_marker,
    finish,
    in_style,
    method_colour,
    method_marker,
)

MEASURES = {
    "relative_norm": "drift: length of change / length before (0 = unchanged)",
    "increase": "drift that the block adds (0 = none)",
    "cosine": "cosine to the frozen activation (1 = unchanged)",
    "cka": "linear CKA to the frozen CLIP (1 = same geometry)",
}
_PARTS = {  # of lost predictions; Okabe and Ito's colours
    "by_image": ("#0072B2", "image side alone"),
    "by_text": ("#E69F00", "text side alone"),
    "by_either": ("#D55E00", "each side alone"),
    "by_both": ("#CC79A7", "only both together"),
}


@in_style
def drift_lines(drift: pd.DataFrame, ax: Axes, *, measure: str = "relative_norm") -> Axes:
    """A line per domain through the blocks; dashed: domains not learned so far.

    Args:
        drift: of `drift_by_block`.
        measure: "relative_norm", "increase", "cosine" or "cka".
    """
    for domain, rows in drift.groupby("domain", sort=False):
        known = rows["status"].iloc[0] in ("learned", "current")
        name = str(domain)
        ax.plot(
            rows["block"],
            rows[measure],
            color=domain_colour(name),
            marker=domain_marker(name),
            ls="-" if known else "--",
            label=f"{name} ({rows['status'].iloc[0]})",
        )
    _blocks(ax, drift["block"])
    ax.axhline(0, color=QUIET, lw=0.8, zorder=0)
    return finish(ax, ylabel=_two_lines(MEASURES[measure]), grid="y", legend=True)


@in_style
def drift_heat(drift: pd.DataFrame, ax: Axes, *, measure: str = "relative_norm") -> Axes:
    """Domains by blocks: dark is far from the frozen CLIP; a dash: no value.

    Args:
        drift: of `drift_by_block`.
        measure: "relative_norm", "increase", "cosine" or "cka".
    """
    table = drift.pivot(index="domain", columns="block", values=measure)
    table = table.loc[list(dict.fromkeys(drift["domain"]))]
    good_is_high = measure in ("cosine", "cka")
    image = heat(ax, table, "magma" if good_is_high else "magma_r", numbers="{:.2f}")
    image.set_clim(*((0, 1) if good_is_high else (0, max(0.01, float(np.nanmax(table))))))
    _blocks(ax, drift["block"])
    ax.set_title(MEASURES[measure], fontsize=11)
    return ax


@in_style
def lost_prediction_bars(lost: pd.DataFrame, ax: Axes, *, stage: int | None = None) -> Axes:
    """What zero-shot knew and the method lost, per domain, by the side that moved.

    Args:
        lost: of `lost_predictions`.
        stage: None: the last one.
    """
    rows = lost[lost["stage"] == (lost["stage"].max() if stage is None else stage)]
    left = np.zeros(len(rows))
    places = np.arange(len(rows))
    for part, (colour, label) in _PARTS.items():
        ax.barh(places, rows[part], left=left, color=colour, label=label, height=0.7)
        left += rows[part].to_numpy()
    for place, total in zip(places, left, strict=True):
        ax.annotate(f"{total:.0f}", (total, place), (4, 0), textcoords="offset points", va="center")
    named = [f"{d} ({s})" for d, s in zip(rows["domain"], rows["status"], strict=True)]
    ax.set_yticks(places, named)
    ax.invert_yaxis()
    ax.set_xlim(0, max(5.0, 1.12 * float(left.max())))
    ax.tick_params(axis="y", length=0)
    label = "zero-shot answers lost (percent of images, lower is better)"
    return finish(ax, xlabel=label, legend=True, title="lost by moving the")


@in_style
def attention_lines(attention: pd.DataFrame, ax: Axes, *, tower: str = "image") -> Axes:
    """A line per method through the blocks, mean over domains; the band is from domain to domain.

    Args:
        attention: of `attention_to_prompts`.
        tower: "image" or "text".
    """
    rows = attention[attention["tower"] == tower]
    for method, own in rows.groupby("method", sort=False):
        name, colour = str(method), method_colour(str(method))
        look: dict[str, Any] = {"color": colour, "mec": colour, "marker": method_marker(name)}
        sns.lineplot(own, x="block", y="share", errorbar=("pi", 100), label=name, ax=ax, **look)
    _blocks(ax, rows["block"])
    ax.set_ylim(bottom=0)
    label = "prompts / attention of the tokens\n(prefix: taken away, DIKI: added)"
    return finish(ax, ylabel=label, grid="y", legend=True)


def heat(ax: Axes, table: pd.DataFrame, colours: str, *, numbers: str) -> Any:
    """A heat map with the value in every cell; the caller sets limits and labels.

    Args:
        colours: a colour map, light or dark at its ends. numbers: format of a value.
    """
    values = table.to_numpy(float)
    image = ax.imshow(np.ma.masked_invalid(values), cmap=colours, aspect="auto")
    ax.set_facecolor("#f3f3f3")
    for row, column in np.ndindex(*values.shape):
        value = values[row, column]
        text = "–" if np.isnan(value) else numbers.format(value)
        ax.text(column, row, text, ha="center", va="center", fontsize=9, color=INK, **_halo())
    ax.set_yticks(range(len(table)), list(table.index))
    ax.set_xticks(range(table.shape[1]), list(table.columns))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(False)
    return image


def _halo() -> dict[str, Any]:
    # dark numbers stay readable on dark cells
    box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "alpha": 0.75, "lw": 0}
    return {"bbox": box}


def _blocks(ax: Axes, blocks: pd.Series) -> None:
    ax.set_xticks(sorted(set(blocks)), ["input" if b == 0 else str(b) for b in sorted(set(blocks))])
    ax.set_xlabel("after block" if 0 in set(blocks) else "block")


def _two_lines(text: str) -> str:
    return text.replace(" (", "\n(")
