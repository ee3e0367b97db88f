"""A run that kills itself, as `kill -9` would, at a chosen moment. Started by test_training.py."""

import os
import signal
from collections.abc import Callable
from typing import Any

import torch
from tiny import SETTINGS, ticking_clock, tiny_clip, tiny_stream

from vlcl_toolkit import files
from vlcl_toolkit.training import session
from vlcl_toolkit.training.loop import run


def count_moments(reached: Callable[[], None]) -> Callable[[Any], None]:
    """Call `reached` around every rename of a file; returns a callback that does so at events."""
    replace = files.os.replace

    def counted(source: Any, target: Any) -> None:
        reached()
        replace(source, target)
        reached()

    files.os.replace = counted
    return lambda event: reached()


def run_until_killed(folder: str, moment: int) -> None:
    """Run fine-tuning in `folder` and send SIGKILL to this process at its moment number `moment`."""
    torch.set_num_threads(1)
    session.monotonic = ticking_clock()
    left = [moment]

    def reached() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    callback = count_moments(reached)
    options = {"config": SETTINGS, "progress": False}
    run("finetune", tiny_stream(), tiny_clip(), out=folder, callback=callback, **options)
