"""Sliders over the settings of one method; for ZSCL, the weights of its parts."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import unknown_name
from vlcl_toolkit.methods.presets import choose_settings
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.training.results import RunResult
from vlcl_toolkit.widgets.live_panel import LivePanel
from vlcl_toolkit.widgets.runs import Key
from vlcl_toolkit.widgets.sliders import value_slider

# Each part can be switched off on its own, to see what it contributes.
ZSCL_SETTINGS: Mapping[str, Sequence[Any]] = {
    "image_side": (False, True),
    "text_side": ("off", "teacher"),
    "distillation_weight": (0.25, 0.5, 1.0, 2.0, 4.0),
    "weight_consolidation": (0.0, 0.001, 0.01, 0.1, 1.0),
    "averaging": ("none", "ensemble"),
}
_LABELS = {
    "image_side": "Distillation, images",
    "text_side": "Distillation, texts",
    "distillation_weight": "Weight of distillation",
    "weight_consolidation": "Weight consolidation",
    "averaging": "Weight averaging",
}


class SettingsPanel(LivePanel):
    """A slider per setting of a method, run and stop; runs are kept by their settings.

    Attributes:
        sliders: by name of the setting; Tab and the arrow keys work as the mouse does.
        reset: the button that restores the initial settings.
        run_button, stop_button, error_view: see `LivePanel`.
    """

    heading = "Settings"

    def __init__(
        self,
        stream: TaskStream,
        clip: Clip,
        *,
        method: str = "zscl",
        values: Mapping[str, Sequence[Any]] = ZSCL_SETTINGS,
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        known: Sequence[RunResult] = (),
        probes: bool = False,
    ):
        """Build the panel; nothing is trained.

        Args:
            stream: in the order of the runs.
            clip: the frozen CLIP.
            method: a registered name.
            values: by setting, what its slider runs through. The initial value is that of
                `config` or of the preset; a number that is not listed is put in its place.
            config: settings of every run that override the preset.
            seed: of every run.
            known: runs of this stream, order and seed that are shown from the beginning.
            probes: record what a `RunExplorer` shows.

        Raises:
            UserError: an unknown method or setting; a value out of range; an initial value that is
                not listed.
        """
        super().__init__(stream, clip, seed=seed, probes=probes)
        self._stream, self._method, self._config = stream, method, dict(config or {})
        full, _ = choose_settings(method, clip.name, stream.id, self._config)
        self.sliders = {}
        for name, listed in values.items():
            if not hasattr(full, name):
                raise unknown_name(f"setting of {method}", name, list(vars(full)))
            for value in listed:  # out of range, it is told here and not in the middle of a lesson
                choose_settings(method, clip.name, stream.id, {**self._config, name: value})
            start = getattr(full, name)
            if start not in listed and isinstance(start, int | float):
                listed = sorted([*listed, start])
            self.sliders[name] = value_slider(_LABELS.get(name, name), listed, start)
        self._start = {name: slider.value for name, slider in self.sliders.items()}
        for result in known:
            chosen = {name: result.config["method_config"][name] for name in self.sliders}
            self._known.add_result(self._key(chosen), result)
        for slider in self.sliders.values():
            slider.observe(self._moved, "value")
        self.reset = ipywidgets.Button(description="Reset", icon="undo")
        self.reset.on_click(self._reset)
        self._moving = False
        self._arrange(ipywidgets.VBox([*self.sliders.values(), self.reset]))

    @property
    def values(self) -> dict[str, Any]:
        """The values of the sliders now."""
        return {name: slider.value for name, slider in self.sliders.items()}

    @property
    def key(self) -> Key:
        """Method, order and settings chosen now."""
        return self._key(self.values)

    @property
    def chosen_stream(self) -> TaskStream:
        """The stream; its order does not change."""
        return self._stream

    @property
    def settings(self) -> Mapping[str, Any]:
        """What overrides the preset now."""
        return self._config | self.values

    def lock(self, locked: bool) -> None:
        """Switch the controls of the choice off or on."""
        for control in (*self.sliders.values(), self.reset):
            control.disabled = locked

    def describe(self, key: Key) -> str:
        """What differs from the initial settings."""
        if key.method != self._method:
            return ""
        chosen = json.loads(key.settings)
        changed = [
            f"{_LABELS.get(name, name)}: {chosen[name]}"
            for name, start in self._start.items()
            if chosen[name] != start
        ]
        return escape(", ".join(changed)) or "initial settings"

    def _key(self, chosen: Mapping[str, Any]) -> Key:
        return Key.of(self._method, self._stream.names, chosen)

    def _moved(self, _: object) -> None:
        if not self._moving:
            self.refresh()

    def _reset(self, _: object) -> None:
        self._moving = True
        try:
            for name, start in self._start.items():
                self.sliders[name].value = start
        finally:
            self._moving = False
        self.refresh()
