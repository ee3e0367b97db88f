"""Sliders that choose the order of the tasks."""

from collections.abc import Sequence
from html import escape

import ipywidgets
from traitlets import Bunch, Tuple, observe, validate

from vlcl_toolkit.plotting.style import domain_colour
from vlcl_toolkit.streams.base import TaskStream, resolve_order
from vlcl_toolkit.widgets.keys import guard_keys


class OrderSliders(ipywidgets.VBox):
    """One slider per task, which says at which position (1 .. T) it is learned.

    The sliders always hold a permutation: the task whose position is taken gets the one that became
    free. Tab and the arrow keys work as the mouse does.

    Attributes:
        order: task names, first to last. Observe it; assign names or indices to move the sliders
            (UserError if that is no permutation).
        sliders: the slider of each task, by name.
        reset: the button that restores the order of the stream.
    """

    order = Tuple()

    def __init__(self, stream: TaskStream):
        self._stream = stream
        self._placing = False
        self.sliders = {
            name: ipywidgets.IntSlider(
                value=position,
                min=1,
                max=max(len(stream), 2),  # a slider needs two ends
                description=name,
                continuous_update=False,
                disabled=len(stream) == 1,
                style={"handle_color": domain_colour(name), "description_width": "7em"},
                layout={"width": "26em"},
            )
            for position, name in enumerate(stream.names, start=1)
        }
        self.reset = ipywidgets.Button(
            description="Reset order", icon="undo", tooltip="the order in which the stream came"
        )
        self._sequence = ipywidgets.HTML()
        super().__init__([*self.sliders.values(), self._sequence, self.reset])
        guard_keys(self)
        self.order = stream.names
        for slider in self.sliders.values():
            slider.observe(self._moved, "value")
        self.reset.on_click(lambda _: self.set_trait("order", stream.names))

    @property
    def stream(self) -> TaskStream:
        """The stream in the chosen order."""
        return self._stream.reorder(self.order)

    def lock(self, locked: bool) -> None:
        """Switch all controls off or on."""
        for control in (*self.sliders.values(), self.reset):
            control.disabled = locked

    @validate("order")
    def _names(self, proposal: Bunch) -> tuple[str, ...]:
        names = self._stream.names
        return tuple(names[i] for i in resolve_order(self._stream, list(proposal.value)))

    @observe("order")
    def _place(self, change: Bunch) -> None:
        self._placing = True
        try:
            for position, name in enumerate(self.order, start=1):
                self.sliders[name].value = position
        finally:
            self._placing = False
        self._sequence.value = sequence_html(self.order)

    def _moved(self, change: Bunch) -> None:
        if self._placing:
            return
        order = list(self.order)
        old, new = change.old - 1, change.new - 1
        order[old], order[new] = order[new], order[old]
        self.order = tuple(order)


def sequence_html(names: Sequence[str]) -> str:
    """The order as a line of names, each underlined in its colour."""
    spans = [
        f'<span style="border-bottom:3px solid {domain_colour(name)}">{escape(name)}</span>'
        for name in names
    ]
    return " → ".join(spans)
