"""What a notebook page can be touched with."""

from vlcl_toolkit.widgets import inside, routes
from vlcl_toolkit.widgets.explorer import RunExplorer, run_explorer
from vlcl_toolkit.widgets.order import OrderSliders, order_sliders
from vlcl_toolkit.widgets.panel import RunPanel, run_panel
from vlcl_toolkit.widgets.place import enter_project
from vlcl_toolkit.widgets.sliders import FigureSliders
from vlcl_toolkit.widgets.threshold import selector_sliders
from vlcl_toolkit.widgets.viewer import ZeroShotViewer, zero_shot_viewer
from vlcl_toolkit.widgets.weights import WeightPanel, weight_panel

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
