"""How zero-shot predictions break."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from vlcl_toolkit.plotting.style import QUIET, difference_cells, in_style


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
