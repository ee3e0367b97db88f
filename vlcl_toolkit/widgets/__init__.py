"""What a notebook page can be touched with."""

from vlcl_toolkit.widgets.order import OrderSliders, order_sliders
from vlcl_toolkit.widgets.panel import RunPanel, run_panel
from vlcl_toolkit.widgets.place import enter_project
from vlcl_toolkit.widgets.viewer import ZeroShotViewer, zero_shot_viewer

__all__ = [
    "OrderSliders",
    "RunPanel",
    "ZeroShotViewer",
    "enter_project",
    "order_sliders",
    "run_panel",
    "zero_shot_viewer",
]
