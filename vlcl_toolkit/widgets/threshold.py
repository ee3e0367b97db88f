"""Sliders of what decides an image's route: the selector's threshold and the mix of the batch."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlcl_toolkit.plotting import new_figure
from vlcl_toolkit.widgets.sliders import FigureSliders

MIXES = (1, 5, 10, 25, 50, 75, 100)  # percent of a batch that is of one domain
_LABELS = {"threshold": "Threshold / the run's own", "mix": "A domain's share (%)"}


def selector_sliders(
    analyse: Callable[..., pd.DataFrame],
    plot: Callable[[pd.DataFrame, Axes], Axes],
    *,
    thresholds: Sequence[int | float] | np.ndarray | None = None,
    mixes: Sequence[int | float] | None = None,
    start: dict[str, int | float] | None = None,
    width: int | float = 8,
    height: int | float = 4.2,
) -> FigureSliders:
    """A slider for the threshold, for the mix, or for both, above the figure of what follows.

    Recorded scores decide anew at each value; the network is not run again.

    Args:
        analyse: called with `threshold=` and `mix=`, as far as there is a slider for it, e.g.
            `functools.partial(analysis.mixed_batches, result.probes)`.
        plot: draws the frame into an Axes, e.g. `plotting.mixed_batch_bars`.
        thresholds: values of the threshold, as multiples of the run's own.
        mixes: percent of one domain in a batch, e.g. `MIXES`.
        start: values to begin with, by "threshold" and "mix"; else the first ones.
        width, height: of the figure, in inches.

    Raises:
        UserError: a slider with less than two values, or a start that is none of them.
    """

    def draw(**chosen: int | float) -> Figure:
        figure, axes = new_figure(width=width, height=height)
        plot(analyse(**chosen), axes)
        return figure

    values = {"threshold": thresholds, "mix": mixes}
    listed = {name: list(given) for name, given in values.items() if given is not None}
    return FigureSliders(draw, listed, start=start, labels=_LABELS)
