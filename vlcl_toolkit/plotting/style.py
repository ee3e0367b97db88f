"""One style for every figure: a colour per method and per domain, font sizes fit for slides."""

import functools
import io
import threading
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image

INK = "#222222"
QUIET = "#8a8a8a"  # axes, reference lines, the frozen CLIP
EMPTY = "#f3f3f3"  # a cell or a slot that nothing has filled yet
PERCENT = "accuracy (percent, higher is better)"

# Okabe and Ito's palette: distinct for the common forms of colour blindness. Markers differ too.
_DOMAINS = {
    "textures": ("#0072B2", "o"),
    "sketches": ("#D55E00", "s"),
    "land": ("#009E73", "^"),
    "digits": ("#CC79A7", "D"),
    "flowers": ("#E69F00", "v"),
    "signs": ("#56B4E9", "P"),
    "faces": (INK, "X"),
}

# After Paul Tol's "muted" palette; grey is the backbone that learns nothing.
_METHODS = {
    "zero_shot": ("#555555", "o"),
    "finetune": ("#D55E00", "s"),
    "lwf": ("#DDCC77", "^"),
    "lwf_vr": ("#B3A125", "<"),
    "wise_ft": ("#FFAABB", "v"),
    "weight_ensemble": ("#661100", ">"),
    "weight_consolidation": ("#6699CC", "d"),
    "icarl": ("#AA4499", "D"),
    "prefix_tuning": ("#88CCEE", "P"),
    "zscl": ("#332288", "X"),
    "moe_adapters": ("#44AA99", "p"),
    "diki": ("#117733", "*"),
    "dpw": ("#5656D8", "$\\diamondsuit$"),
    "rail": ("#7F00FF", "h"),
    "lora": ("#B20000", "H"),
    "keeplora": ("#3F0917", "8"),
    "nusa_cl": ("#32093F", "$\\clubsuit$"),
}

STYLE: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 12,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "lines.linewidth": 2.2,
    "lines.markersize": 7,
    "legend.frameon": False,
}


# For names that the toolkit does not know, in the order in which they appear.
_SPARE = [
    ("#332288", "h"),
    ("#999933", "<"),
    ("#882255", "d"),
    ("#44AA99", ">"),
    ("#661100", "p"),
    ("#6699CC", "*"),
    ("#AA4499", "H"),
    ("#117733", "8"),
]


def domain_colour(name: str) -> str:
    """The colour of a domain, as "#rrggbb"; the same in every figure."""
    return _look(_DOMAINS, name)[0]


def domain_marker(name: str) -> str:
    """The matplotlib marker of a domain."""
    return _look(_DOMAINS, name)[1]


def method_colour(name: str) -> str:
    """The colour of a method, as "#rrggbb"; the same in every figure."""
    return _look(_METHODS, name)[0]


def method_marker(name: str) -> str:
    """The matplotlib marker of a method."""
    return _look(_METHODS, name)[1]


def _look(table: dict[str, tuple[str, str]], name: str) -> tuple[str, str]:
    if name not in table:
        table[name] = _SPARE[len(table) % len(_SPARE)]
    return table[name]


# Widgets render from the thread that trains; matplotlib is not thread-safe.
_rendering = threading.RLock()
Plot = TypeVar("Plot", bound=Callable[..., Any])


def in_style(plot: Plot) -> Plot:
    """Decorator of a plotting function: the toolkit's look, whatever the reader's own settings."""

    @functools.wraps(plot)
    def wrapped(*args: Any, **options: Any) -> Any:
        with _rendering, matplotlib.rc_context(STYLE):
            return plot(*args, **options)

    return wrapped  # type: ignore[return-value]


def use_style() -> None:
    """Make the toolkit's look the default of matplotlib in this process (for notebooks)."""
    matplotlib.rcParams.update(STYLE)
    # Load the backend now: until then, a notebook shows figures made outside pyplot as text.
    from matplotlib import pyplot

    pyplot.switch_backend(pyplot.get_backend())


@in_style
def new_figure(
    rows: int = 1,
    columns: int = 1,
    *,
    width: int | float = 8,
    height: int | float = 4.5,
    **options: Any,
) -> tuple[Figure, Any]:
    """A figure in the toolkit's look and its axes, outside pyplot, so that nothing global is left behind.

    Args:
        rows, columns: of the grid of axes.
        width, height: in inches; a pixel is 1/100 inch.
        options: passed on to `Figure.subplots`, e.g. `width_ratios`.

    Returns:
        the figure, and one Axes or an array of them.
    """
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, **options)


def finish(
    ax: Axes,
    *,
    xlabel: str = "",
    ylabel: str = "",
    grid: Literal["", "x", "y"] = "",
    legend: bool = False,
    **options: Any,
) -> Axes:
    """What most figures end with: labels, grid lines across one axis, the legend to the right.

    Args:
        xlabel, ylabel: left as they are if empty.
        grid: the axis whose ticks get grid lines.
        legend: whether there is one; `options` are passed on to it.
    """
    if xlabel:
        ax.set_xlabel(xlabel)
    if ylabel:
        ax.set_ylabel(ylabel)
    if grid:
        ax.grid(True, axis=grid)
    if legend:
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), **options)
    return ax


@in_style
def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    # One rendering pass instead of the two of `savefig`, and fast rather than strong compression:
    # these pictures are not kept.
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    buffer = io.BytesIO()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


MOST_NUMBERS = 16  # columns; with more, numbers would run into each other


@in_style
def difference_cells(change: pd.DataFrame, ax: Axes, *, limit: float | int) -> Axes:
    """A table of differences; unknown cells are grey. Cell (0, 0) is at the top left.

    Args:
        change: numbers, nan = unknown.
        limit: above 0; the difference that gets the strongest colour.
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
            shown = _signed(values[row, column])
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
