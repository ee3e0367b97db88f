"""What a notebook page can be touched with."""

from vlcl_toolkit.widgets.order import OrderSliders, order_sliders
from vlcl_toolkit.widgets.panel import RunPanel, run_panel
from vlcl_toolkit.widgets.place import enter_project

__all__ = ["OrderSliders", "RunPanel", "enter_project", "order_sliders", "run_panel"]
