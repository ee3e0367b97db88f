"""Images one by one, and how a CLIP classifies them."""

import functools
from collections.abc import Sequence

import ipywidgets
import pandas as pd
import torch
from matplotlib.figure import Figure
from traitlets import Bunch

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.plotting import class_probabilities, new_figure, show_image
from vlcl_toolkit.streams.base import Task, TaskStream
from vlcl_toolkit.widgets.keys import guard_keys
from vlcl_toolkit.widgets.view import ErrorView, Picture, shows_errors


class ZeroShotViewer(ipywidgets.VBox):
    """A test image and the probability of each class, for class names of the reader's choice.

    Attributes:
        domain, image, names: the drop-down list, the slider (image number), the text field with
            class names separated by commas.
        probabilities: what is shown, in [0, 1] by class name.
        error_view: shows what went wrong, e.g. a word that the miniature never read.
    """

    probabilities: pd.Series

    def __init__(self, stream: TaskStream, clip: Clip):
        """Show the first test image of the first task; held-out tasks can be chosen too."""
        w = ipywidgets
        self._clip = clip
        self._tasks = {task.name: task for task in (*stream, *stream.held_out)}
        self._features: dict[tuple[str, tuple[str, ...]], torch.Tensor] = {}
        wide = {"layout": {"width": "46em"}, "style": {"description_width": "7em"}}
        self.domain = w.Dropdown(options=list(self._tasks), description="Domain", **wide)
        self.image = w.IntSlider(min=0, description="Image", **wide)
        self.names = w.Text(description="Class names", continuous_update=False, **wide)
        self.error_view, self.picture = ErrorView(), Picture(width="780px")
        controls = [self.domain, self.image, self.names]
        super().__init__([*controls, self.error_view, self.picture])
        guard_keys(self)
        self._enter_domain()
        self.domain.observe(self._enter_domain, "value")
        for control in (self.image, self.names):
            control.observe(self._react, "value")

    @property
    def task(self) -> Task:
        """The task chosen."""
        return self._tasks[self.domain.value]

    def figure(self) -> Figure:
        """The picture shown, as a static figure."""
        return self.picture.figure()

    @shows_errors
    def _enter_domain(self, _: Bunch | None = None) -> None:
        self._entering = True  # the controls follow the domain; one picture is enough
        self.image.max = len(self.task.test) - 1
        self.names.value = ", ".join(self.task.class_names)
        self._entering = False
        self._refresh()

    @shows_errors
    def _react(self, _: Bunch) -> None:
        if not self._entering:
            self._refresh()

    def _refresh(self) -> None:
        self.error_view.clear()
        task, number = self.task, self.image.value
        names = tuple(name.strip() for name in self.names.value.split(",") if name.strip())
        if not names:
            raise UserError("no class names given; separate names by commas")
        image, label = task.test[number]
        self.probabilities = self._classify(image, names)
        truth = task.class_names[int(label)]
        render = functools.partial(_render, image, self.probabilities, truth)
        self.picture.show((task.name, number, names), render)

    def _classify(self, image: torch.Tensor, names: Sequence[str]) -> pd.Series:
        key = (self.domain.value, tuple(names))
        with torch.no_grad():
            if key not in self._features:
                features = self._clip.class_features(names, self.task.templates)
                self._features[key] = features
            seen = self._clip.encode_image(self._clip.eval_transform(image)[None])
            logits = self._clip.logits(seen, self._features[key])
        return pd.Series(logits.softmax(dim=1)[0].cpu().numpy(), index=list(names))


def _render(image: torch.Tensor, probabilities: pd.Series, truth: str) -> Figure:
    figure, (left, right) = new_figure(1, 2, width=7.8, height=2.9, width_ratios=[1, 1.7])
    show_image(image, left, truth)
    class_probabilities(probabilities, right, truth=truth if truth in probabilities else None)
    return figure
