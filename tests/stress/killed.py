"""A tiny run of any method that kills itself at a chosen moment."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from killed_run import count_moments
from small_methods import REFERENCE, SMALL
from tiny import ticking_clock, tiny_clip, tiny_stream

from vlcl_toolkit.training import session
from vlcl_toolkit.training.loop import run


def run_method(
    method: str, folder: Path, moment: int | None, moments: Any, probes: bool = False
) -> None:
    """Run in `folder`; SIGKILL at moment number `moment`, or count the moments."""
    torch.set_num_threads(1)
    session.monotonic = ticking_clock()
    reached = [0]

    def reach() -> None:
        if moment is not None and reached[0] == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        reached[0] += 1

    stream = replace(tiny_stream(), reference=_reference)
    callback = count_moments(reach)
    options = {"config": SMALL[method], "progress": False, "callback": callback}
    options |= {"probes": probes}
    run(method, stream, tiny_clip(), out=folder, **options)
    if moments is not None:
        moments.value = reached[0]


def _reference():
    return REFERENCE
