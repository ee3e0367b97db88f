"""The panel of task orders: order sliders, a method, run and stop, and all runs side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import unknown_name
from vlcl_toolkit.methods import method_names
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.training.results import RunResult
from vlcl_toolkit.widgets.live_panel import LivePanel
from vlcl_toolkit.widgets.order import OrderSliders, sequence_html
from vlcl_toolkit.widgets.runs import Key


class RunPanel(LivePanel):
    """Choose an order and a method, train, and watch what is learned and what is lost.

    Runs of this panel are kept: moving the sliders back shows them at once, and all of them stand
    side by side in a table and a picture.

    Attributes:
        sliders: the `OrderSliders`. `method`: the drop-down list.
        run_button, stop_button, error_view: see `LivePanel`.
    """

    def __init__(
        self,
        stream: TaskStream,
        clip: Clip,
        *,
        methods: Sequence[str] | None = None,
        configs: Mapping[str, Mapping[str, Any]] | None = None,
        seed: int = 0,
        known: Sequence[RunResult] = (),
        probes: bool = False,
    ):
        """Build the panel; nothing is trained.

        Args:
            stream: its order is the initial one.
            clip: the frozen CLIP.
            methods: names to choose from; None: all.
            configs: by method name, settings that override the preset.
            seed: of every run.
            known: runs of this stream, settings and seed that are shown from the beginning.
            probes: record what a `RunExplorer` shows.

        Raises:
            UserError: an unknown method.
        """
        methods = method_names() if methods is None else methods
        for name in (*methods, *(configs or {})):
            if name not in method_names():
                raise unknown_name("method", name, method_names())
        super().__init__(stream, clip, seed=seed, probes=probes)
        self._configs = dict(configs or {})
        for result in known:
            self._known.add_result(self._key(result.method, tuple(result.order)), result)
        self.sliders = OrderSliders(stream)
        self.method = ipywidgets.Dropdown(options=list(methods), description="Method")
        self.sliders.observe(self.refresh, "order")
        self.method.observe(self.refresh, "value")
        self._arrange(self.sliders, above=self.method)

    @property
    def key(self) -> Key:
        """Method, order and settings chosen now."""
        return self._key(self.method.value, self.sliders.order)

    @property
    def chosen_stream(self) -> TaskStream:
        """The stream in the order chosen now."""
        return self.sliders.stream

    @property
    def settings(self) -> Mapping[str, Any]:
        """What overrides the preset of the method chosen now."""
        return self._configs.get(self.method.value, {})

    def lock(self, locked: bool) -> None:
        """Switch the controls of the choice off or on."""
        self.sliders.lock(locked)
        self.method.disabled = locked

    def describe(self, key: Key) -> str:
        """The order of a run."""
        return sequence_html(key.order)

    def _key(self, method: str, order: tuple[str, ...]) -> Key:
        return Key.of(method, order, self._configs.get(method, {}))
