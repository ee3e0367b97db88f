"""Names beside points that do not run into each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Affine2D, Bbox

from vlcl_toolkit.plotting.style import QUIET

SIZE = 10  # of the letters, points
# Where a name may stand, as seen from its point: nearest places first, the right side before others.
_OFFSETS = [
    (far * x, far * y)
    for far in (1.0, 1.8, 2.8, 4.0)
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
]


def name_points(ax: Axes, places: np.ndarray, names: Sequence[str]) -> None:
    """Write each name near its place `[n, 2]` where no other name is; a thin line leads to its point.

    The limits of the axes have to be final. Where there is no room at all, the last names overlap.
    """
    points = 72 / ax.figure.dpi * ax.transData.transform(np.asarray(places, float))
    inside = ax.get_window_extent().frozen().transformed(Affine2D().scale(72 / ax.figure.dpi))
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in points]
    for number in np.argsort(-points[:, 1], kind="stable"):
        size = np.array([0.65 * SIZE * len(names[number]), 1.3 * SIZE])
        shifts = [np.array([x * (9 + size[0] / 2), y * SIZE * 1.4]) for x, y in _OFFSETS]
        boxes = [Bbox.from_bounds(*(points[number] + s - size / 2), *size) for s in shifts]
        free = [
            i
            for i, box in enumerate(boxes)
            if not box.count_overlaps(taken) and inside.x0 < box.x0 and box.x1 < inside.x1
        ]
        chosen = free[0] if free else len(boxes) - 1
        taken.append(boxes[chosen])
        line = {"arrowstyle": "-", "color": QUIET, "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SIZE, "zorder": 5}
        shown = ax.annotate(
            names[number],
            tuple(places[number]),
            tuple(shifts[chosen]),
            textcoords="offset points",
            arrowprops=line if chosen > 3 else None,
            **look,
        )
        shown.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
