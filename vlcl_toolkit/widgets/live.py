"""A run in a thread of its own, so that the page stays alive while it trains."""

import threading
from collections.abc import Callable
from typing import Any

from vlcl_toolkit.events import Event, StopRun
from vlcl_toolkit.results import RunResult
from vlcl_toolkit.training import run


class BackgroundRun:
    """`run`, started in a daemon thread: it ends with the kernel, and resumes from its checkpoint.

    Attributes:
        result: what the run returned; None until then.
        error: the exception that ended it, or None.
        ended: whether it is over; `on_end` may still be at work.
    """

    def __init__(
        self,
        on_event: Callable[[Event], None],
        on_end: Callable[["BackgroundRun"], None],
        *arguments: Any,
        **options: Any,
    ):
        """Prepare.

        Args:
            on_event, on_end: called in the thread; `on_end` once, whatever happened.
            arguments, options: of `run`.
        """
        self.result: RunResult | None = None
        self.error: Exception | None = None
        self.ended = False
        self._on_event, self._on_end = on_event, on_end
        self._arguments, self._options = arguments, options
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="vlcl run", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the run to save a checkpoint and end; returns at once."""
        self._stop.set()

    def wait(self, seconds: int | float | None = None) -> bool:
        """Wait for the end; False if it did not come in time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _listen(self, event: Event) -> None:
        self._on_event(event)
        if self._stop.is_set():
            raise StopRun

    def _work(self) -> None:
        try:
            self.result = run(
                *self._arguments, **self._options, progress=False, callback=self._listen
            )
        except Exception as error:  # noqa: BLE001 (a thread has nobody to raise to: the page shows it)
            self.error = error
        self.ended = True
        self._on_end(self)
