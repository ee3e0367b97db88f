"""What a notebook page can be touched with."""

from vlcl_toolkit.widgets import probe_views as inside
from vlcl_toolkit.widgets import probe_views as routes
from vlcl_toolkit.widgets.explorer import RunExplorer, run_explorer
from vlcl_toolkit.widgets.notebook import enter_project
from vlcl_toolkit.widgets.order import OrderSliders, order_sliders
from vlcl_toolkit.widgets.panel import RunPanel, run_panel
from vlcl_toolkit.widgets.settings_panel import WeightPanel, weight_panel
from vlcl_toolkit.widgets.sliders import FigureSliders, selector_sliders
from vlcl_toolkit.widgets.zero_shot_viewer import ZeroShotViewer, zero_shot_viewer

__all__ = [
    "FigureSliders",
    "OrderSliders",
    "RunExplorer",
    "RunPanel",
    "WeightPanel",
    "ZeroShotViewer",
    "enter_project",
    "inside",
    "order_sliders",
    "routes",
    "run_explorer",
    "run_panel",
    "selector_sliders",
    "weight_panel",
    "zero_shot_viewer",
]
