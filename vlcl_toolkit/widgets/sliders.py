"""Sliders over given values, and the figure that they control."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlcl_toolkit.analysis import closed_form_accuracy
from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.plotting import accuracy_matrix, new_figure, weight_path_curves
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.widgets.keys import guard_keys
from vlcl_toolkit.widgets.view import View


class FigureSliders(ipywidgets.VBox):
    """A slider per quantity, and a figure of the values chosen, rendered once for each choice.

    Attributes:
        sliders: by name of the quantity; Tab and the arrow keys work as the mouse does.
        view: shows the figure, or in its `error_view` why there is none.
    """

    def __init__(
        self,
        render: Callable[..., Figure],
        values: Mapping[str, Sequence[Any]],
        *,
        start: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
    ):
        """Render the first figure.

        Args:
            render: called with a keyword argument per quantity.
            values: what each slider runs through, in this order.
            start: initial values; else the first ones.
            labels: what the page calls a quantity; else its name.

        Raises:
            UserError: a quantity with fewer than two values, or a start that is not one of them.
        """
        self._render = render
        start = start or {}
        self.sliders = {
            name: value_slider((labels or {}).get(name, name), listed, start.get(name))
            for name, listed in values.items()
        }
        self.view = View()
        super().__init__([*self.sliders.values(), self.view])
        guard_keys(self)
        for slider in self.sliders.values():
            slider.observe(self.refresh, "value")
        self.refresh()

    @property
    def values(self) -> dict[str, Any]:
        """The values chosen now."""
        return {name: slider.value for name, slider in self.sliders.items()}

    def refresh(self, _: object = None) -> None:
        """Show the figure of the values chosen now."""
        self.view.show(tuple(self.values.items()), functools.partial(self._render, **self.values))

    def figure(self) -> Figure:
        """The figure of the values chosen now, for readers without a kernel."""
        return self._render(**self.values)


def value_slider(
    label: str, values: Sequence[Any], start: Any = None
) -> ipywidgets.SelectionSlider:
    """A slider that runs through given values; truth values read "on" and "off".

    Raises:
        UserError: there are fewer than two values, or `start` is not one of them.
    """
    if len(values) < 2:  # a slider needs two ends
        raise UserError(f"the slider {label!r} has {len(values)} values; give at least two")
    chosen = values[0] if start is None else start
    if chosen not in values:
        raise UserError(f"{label}: {chosen!r} is not one of the slider's values: {list(values)}")
    return ipywidgets.SelectionSlider(
        options=[(_text(value), value) for value in values],
        value=chosen,
        description=label,
        continuous_update=False,
        style={"description_width": "14em"},
        layout={"width": "34em"},
    )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


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

    Every value decides again from the recorded scores; the network is not run again.

    Args:
        analyse: called with `threshold=` and `mix=`, as far as there is a slider for it, e.g.
            `functools.partial(analysis.mixed_batches, result.probes)`.
        plot: plots the frame into an Axes, e.g. `plotting.mixed_batch_bars`.
        thresholds: values of the threshold, as multiples of the run's own.
        mixes: percent of one domain in a batch.
        start: initial values, by "threshold" and "mix"; else the first ones.
        width, height: of the figure, in inches.

    Raises:
        UserError: a slider with fewer than two values, or a start that is not one of them.
    """

    def render(**chosen: int | float) -> Figure:
        figure, axes = new_figure(width=width, height=height)
        plot(analyse(**chosen), axes)
        return figure

    values = {"threshold": thresholds, "mix": mixes}
    listed = {name: list(given) for name, given in values.items() if given is not None}
    return FigureSliders(render, listed, start=start, labels=_LABELS)


def weight_path_slider(path: pd.DataFrame) -> FigureSliders:
    """A slider for alpha, the weight of the trained model; the title says what the model can do there.

    Args:
        path: of `analysis.weight_path`; nothing is run again.
    """

    def render(alpha: float | int) -> Figure:
        here = path[path["alpha"] == alpha].groupby("status", sort=False)["accuracy"].mean()
        figure, ax = new_figure(width=9, height=4.2)
        weight_path_curves(path, ax, alpha=alpha)
        ax.set_title(", ".join(f"{status}: {mean:.1f} %" for status, mean in here.items()))
        return figure

    alphas = sorted(path["alpha"].unique().tolist())
    labels = {"alpha": "Alpha (weight of the trained model)"}
    return FigureSliders(render, {"alpha": alphas}, start={"alpha": alphas[-1]}, labels=labels)


def regression_sliders(
    stream: TaskStream,
    clip: Clip,
    *,
    widths: Sequence[int] = (50, 250, 500, 1000, 2000),
    ridges: Sequence[float | int] = (0.0002, 0.002, 0.0205, 0.2, 2.0, 20.0),
    fusions: Sequence[float | int] = (0.0, 0.2, 0.5, 0.8, 1.0),
) -> FigureSliders:
    """Sliders of RAIL and of the label space, above its accuracy matrix, learned again at every move.

    Args:
        stream: tasks in their order.
        clip: the frozen CLIP; features of its images are computed once.
        widths, ridges, fusions: values of `width`, `relative_ridge` and `fusion`; see `RailConfig`.
    """

    def render(label_space: str, width: int, ridge: float | int, fusion: float | int) -> Figure:
        settings = {"width": width, "relative_ridge": ridge, "fusion": fusion}
        chosen = stream.with_label_space(label_space)
        table = closed_form_accuracy(chosen, clip, settings)
        figure, ax = new_figure(width=9, height=4.6)
        accuracy_matrix(table, ax)
        ax.set_title(f"RAIL: {table.iloc[-1].mean():.1f} % at the end")
        return figure

    spaces = ["task", "all"] if len(stream) == 1 else ["task", "odcl", "all"]
    values: dict[str, Sequence[Any]] = {
        "label_space": spaces,
        "width": widths,
        "ridge": ridges,
        "fusion": fusions,
    }
    labels = {"label_space": "Label space", "ridge": "Relative ridge"}
    labels |= {"width": "Width", "fusion": "Fusion"}
    papers = {"label_space": "all", "width": 500, "ridge": 0.0205, "fusion": 0.8}
    start = {name: value for name, value in papers.items() if value in values[name]}
    return FigureSliders(render, values, start=start, labels=labels)
