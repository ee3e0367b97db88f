"""A table of differences as coloured cells: blue is a gain, red a loss, white no change."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from vlcl_toolkit.plotting.style import EMPTY, INK, in_style

MOST_NUMBERS = 16  # columns; with more, numbers would run into each other


@in_style
def difference_cells(
    change: pd.DataFrame, ax: Axes, *, limit: float | int, text: np.ndarray | None = None
) -> Axes:
    """Draw a table of differences; unknown cells are grey. Cell (0, 0) is at the top left.

    Args:
        change: numbers, nan = unknown.
        limit: above 0; the difference that gets the strongest colour.
        text: numbers `[rows, columns]` to write into the cells; by default the differences, signed.
    """
    values = change.to_numpy(float)
    rows, columns = values.shape
    known = np.isfinite(values)
    shade = np.clip(0.5 + 0.42 * np.nan_to_num(values) / limit, 0.04, 0.96)
    colours = np.where(known[..., None], colormaps["RdBu"](shade), to_rgba(EMPTY))
    ax.pcolormesh(
        np.arange(columns + 1), np.arange(rows + 1), colours, edgecolors="white", linewidth=1.5
    )
    if columns <= MOST_NUMBERS:
        dark = colours[..., :3] ** 2.2 @ (0.2126, 0.7152, 0.0722) < 0.26
        for row, column in zip(*known.nonzero(), strict=True):
            number = values[row, column] if text is None else text[row, column]
            shown = f"{number:.0f}" if text is not None else _signed(number)
            ink = "white" if dark[row, column] else INK
            place = (column + 0.5, row + 0.5)
            ax.text(*place, shown, ha="center", va="center", color=ink, fontsize=11)
    ax.set_xlim(0, columns)
    ax.set_ylim(rows, 0)
    crowded = sum(len(str(name)) for name in change.columns) > 45 or columns > 8
    turned: dict[str, Any] = (
        {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    )
    ax.set_xticks(np.arange(columns) + 0.5, [str(c) for c in change.columns], fontsize=11, **turned)
    ax.set_yticks(np.arange(rows) + 0.5, [str(name) for name in change.index], fontsize=11)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def _signed(points: float) -> str:
    rounded = f"{points:+.0f}".replace("-", "−")
    return "0" if rounded in ("+0", "−0") else rounded
