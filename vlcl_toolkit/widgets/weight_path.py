"""A slider along the line from the frozen weights to the trained ones."""

import pandas as pd
from matplotlib.figure import Figure

from vlcl_toolkit.plotting import new_figure, weight_path_curves
from vlcl_toolkit.widgets.sliders import FigureSliders


def weight_path_slider(path: pd.DataFrame) -> FigureSliders:
    """A slider for the share of the trained weights; the title says what the model can do there.

    Args:
        path: columns share, task, status, accuracy (see `weight_path`); nothing is run again.
    """

    def draw(share: float | int) -> Figure:
        here = path[path["share"] == share].groupby("status", sort=False)["accuracy"].mean()
        figure, ax = new_figure(width=9, height=4.2)
        weight_path_curves(path, ax, share=share)
        ax.set_title(", ".join(f"{status}: {mean:.1f} %" for status, mean in here.items()))
        return figure

    shares = sorted(path["share"].unique().tolist())
    labels = {"share": "Share of trained weights"}
    return FigureSliders(draw, {"share": shares}, start={"share": shares[-1]}, labels=labels)
