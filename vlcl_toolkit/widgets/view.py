"""A view: a heading, a picture that is drawn once per choice, and its own place for errors."""

from collections.abc import Callable, Hashable, Sequence
from html import escape

import ipywidgets
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vlcl_toolkit.plotting.style import in_style, new_figure
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
    width = max(picture.shape[1] for picture in pictures) / 100  # a pixel is 1/100 inch
    heights = [picture.shape[0] / 100 + 0.3 for picture in pictures]
    whole, axes = new_figure(
        len(figures), width=width, height=sum(heights), height_ratios=heights, squeeze=False
    )
    whole.set_layout_engine("constrained", w_pad=0, h_pad=0, hspace=0, wspace=0)
    for ax, (label, _), picture in zip(axes.flat, figures, pictures, strict=True):
        ax.imshow(picture, interpolation="none")
        ax.set_anchor("W")
        ax.set_title(label)
        ax.axis("off")
    return whole
