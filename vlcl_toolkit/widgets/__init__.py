"""Interactive controls for the notebooks."""

from vlcl_toolkit.widgets import probe_views
from vlcl_toolkit.widgets.explorer import RunExplorer
from vlcl_toolkit.widgets.notebook import enter_project
from vlcl_toolkit.widgets.order import OrderSliders
from vlcl_toolkit.widgets.panel import RunPanel
from vlcl_toolkit.widgets.player import RunPlayer
from vlcl_toolkit.widgets.settings_panel import SettingsPanel
from vlcl_toolkit.widgets.sliders import (
    FigureSliders,
    regression_sliders,
    selector_sliders,
    weight_path_slider,
)
from vlcl_toolkit.widgets.zero_shot_viewer import ZeroShotViewer

__all__ = [
    "FigureSliders",
    "OrderSliders",
    "RunExplorer",
    "RunPanel",
    "RunPlayer",
    "SettingsPanel",
    "ZeroShotViewer",
    "enter_project",
    "probe_views",
    "regression_sliders",
    "selector_sliders",
    "weight_path_slider",
]
