"""A figure on the page that is drawn once and then only looked up."""

from collections.abc import Callable, Hashable

import ipywidgets
from matplotlib.figure import Figure

from vlcl_toolkit.plotting.style import to_png

_KEPT = 200  # pictures of about 70 kB


class Picture(ipywidgets.Image):
    """An image that remembers what it has shown.

    Attributes:
        figure: draws the figure shown now; the static version for readers without a kernel.
    """

    figure: Callable[[], Figure]

    def __init__(self, **layout: str):
        self._drawn: dict[Hashable, bytes] = {}
        super().__init__(format="png", layout={"max_width": "100%", **layout})

    def show(self, key: Hashable, draw: Callable[[], Figure]) -> None:
        """Show what `draw` draws; it is called only if `key` has not been shown before."""
        self.figure = draw
        if key not in self._drawn:
            self._drawn[key] = to_png(draw())
            if len(self._drawn) > _KEPT:
                del self._drawn[next(iter(self._drawn))]
        self.value = self._drawn[key]
