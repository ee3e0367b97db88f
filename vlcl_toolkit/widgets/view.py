"""A view: a heading, a picture that is drawn once per choice, and its own place for errors."""

from collections.abc import Callable, Hashable, Sequence
from html import escape

import ipywidgets
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vlcl_toolkit.plotting.style import in_style
from vlcl_toolkit.widgets.errors import ErrorView, shows_errors
from vlcl_toolkit.widgets.picture import Picture


class View(ipywidgets.VBox):
    """A picture with a heading. What goes wrong while it is drawn is shown in its place.

    Attributes:
        label: the heading.
        picture: the `Picture`. `error_view`: shows what went wrong; its `error` is the exception.
    """

    def __init__(self, label: str = ""):
        self.label = label
        self.picture, self.error_view = Picture(), ErrorView()
        heading = [ipywidgets.HTML(f"<b>{escape(label)}</b>")] if label else []
        super().__init__(
            [*heading, self.error_view, self.picture], layout={"align_items": "flex-start"}
        )

    @shows_errors
    def show(self, key: Hashable, draw: Callable[[], Figure]) -> None:
        """Show what `draw` draws; it is called only if `key` has not been shown before."""
        self.error_view.clear()
        self.picture.layout.display = "none"  # a picture of another choice would be mistaken
        self.picture.show(key, draw)
        self.picture.layout.display = ""


@in_style
def stack(figures: Sequence[tuple[str, Figure]]) -> Figure:
    """One figure that holds others, top to bottom, each below its heading."""
    pictures = []
    for _, figure in figures:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pictures.append(np.asarray(canvas.buffer_rgba()))
    heading = 30  # pixels; one is 1/100 inch, and every picture keeps its own
    width = max(picture.shape[1] for picture in pictures)
    height = sum(picture.shape[0] + heading for picture in pictures)
    whole = Figure(figsize=(width / 100, height / 100), dpi=100)
    whole.set_layout_engine("none")
    bottom = height
    for (label, _), picture in zip(figures, pictures, strict=True):
        bottom -= picture.shape[0] + heading
        size = picture.shape[1] / width, picture.shape[0] / height
        ax = whole.add_axes((0, bottom / height, *size))
        ax.imshow(picture, interpolation="none", aspect="auto")
        ax.set_title(label)
        ax.axis("off")
    return whole
