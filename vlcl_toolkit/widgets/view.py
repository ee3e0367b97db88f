"""Pictures and errors on a page: an exception in a callback is shown, which Jupyter would swallow."""

import functools
import traceback
from collections.abc import Callable, Hashable, Sequence
from html import escape
from typing import Any, TypeVar

import ipywidgets
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.plotting.style import in_style, to_png

Reaction = TypeVar("Reaction", bound=Callable[..., None])


class ErrorView(ipywidgets.HTML):
    """A place on the page for the last error.

    Attributes:
        error: the exception shown, or None.
    """

    error: Exception | None = None

    def show(self, error: Exception) -> None:
        """A reader's mistake as its one line, anything else with its traceback."""
        self.error = error
        if isinstance(error, UserError):
            text = escape(str(error))
        else:
            text = f"<pre>{escape(''.join(traceback.format_exception(error)))}</pre>"
        self.value = f"<div role='alert' style='color:#b00020'><b>Error:</b> {text}</div>"

    def clear(self) -> None:
        """Show no error."""
        self.error, self.value = None, ""


def shows_errors(react: Reaction) -> Reaction:
    """Decorator of a callback of a widget with an `error_view`: exceptions go there."""

    @functools.wraps(react)
    def wrapped(widget: Any, *arguments: Any) -> None:
        try:
            react(widget, *arguments)
        except Exception as error:  # noqa: BLE001 (whatever it is, the reader must see it)
            widget.error_view.show(error)

    return wrapped  # type: ignore[return-value]


_KEPT = 200  # pictures of about 70 kB


class Picture(ipywidgets.Image):
    """An image that remembers what it has shown.

    Attributes:
        figure: renders what is shown now, as a static figure for readers without a kernel.
    """

    figure: Callable[[], Figure]

    def __init__(self, **layout: str):
        self._rendered: dict[Hashable, bytes] = {}
        super().__init__(format="png", layout={"max_width": "100%", **layout})

    def show(self, key: Hashable, render: Callable[[], Figure]) -> None:
        """Show what `render` returns; it is called only if `key` has not been shown before."""
        self.figure = render
        if key not in self._rendered:
            self._rendered[key] = to_png(render())
            if len(self._rendered) > _KEPT:
                del self._rendered[next(iter(self._rendered))]
        self.value = self._rendered[key]


class View(ipywidgets.VBox):
    """A picture with a heading. An error while it is rendered is shown in its place.

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
    def show(self, key: Hashable, render: Callable[[], Figure]) -> None:
        """Show what `render` returns; it is called only if `key` has not been shown before."""
        self.error_view.clear()
        self.picture.layout.display = "none"  # else a picture of another choice would stay
        self.picture.show(key, render)
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
