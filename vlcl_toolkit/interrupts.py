"""Ctrl-C that waits for a moment at which a run can be saved."""

import signal
import threading
from types import FrameType


class DelayedInterrupt:
    """Context: the first Ctrl-C only sets `requested`; the second interrupts at once.

    Signals reach the main thread alone; elsewhere this does nothing.
    """

    requested = False

    def __enter__(self) -> "DelayedInterrupt":
        self._previous = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
