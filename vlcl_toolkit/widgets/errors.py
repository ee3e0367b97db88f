"""An exception in a callback is shown to the reader: the page itself would swallow it."""

import functools
import traceback
from collections.abc import Callable
from html import escape
from typing import Any, TypeVar

import ipywidgets

from vlcl_toolkit.errors import UserError

Reaction = TypeVar("Reaction", bound=Callable[..., None])


class ErrorView(ipywidgets.HTML):
    """A place on the page for the last error.

    Attributes:
        error: the exception shown, or None.
    """

    error: Exception | None = None

    def show(self, error: Exception) -> None:
        """A reader's mistake as its one line, anything else with its traceback."""
        self.error = error
        if isinstance(error, UserError):
            text = escape(str(error))
        else:
            text = f"<pre>{escape(''.join(traceback.format_exception(error)))}</pre>"
        self.value = f"<div role='alert' style='color:#b00020'><b>Error:</b> {text}</div>"

    def clear(self) -> None:
        """Nothing is wrong (any more)."""
        self.error, self.value = None, ""


def shows_errors(react: Reaction) -> Reaction:
    """Decorator of a callback of a widget with an `error_view`: exceptions go there."""

    @functools.wraps(react)
    def wrapped(widget: Any, *arguments: Any) -> None:
        try:
            react(widget, *arguments)
        except Exception as error:  # noqa: BLE001 (whatever it is, the reader must see it)
            widget.error_view.show(error)

    return wrapped  # type: ignore[return-value]
