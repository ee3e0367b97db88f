"""Keys pressed inside a panel are the panel's: JupyterLab must not take them for its own commands.

In a notebook that is not being edited, "m" turns a cell into Markdown, "x" cuts it and arrow keys go
to the next one, wherever in the cell's output the key was pressed. Shortcuts with Ctrl, Alt or Cmd, and
Shift-Enter, which runs the next cell, go on working. The focus returns to a button that was switched off
while its work was done.
"""

from pathlib import Path

import anywidget
import ipywidgets


class _Guard(anywidget.AnyWidget):
    """Invisible; guards the panel it lies in."""

    _esm = Path(__file__).with_name("keys.js")


def guard_keys(panel: ipywidgets.Box) -> None:
    """Keep the keys pressed in `panel`; call once it has its children."""
    panel.add_class("vlcl-panel")
    panel.children = (*panel.children, _Guard())
