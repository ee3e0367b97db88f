"""Runs of several processes. Started by test_several_processes.py, by torchrun or as a single process."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from small_methods import reference_stream
from tiny import SETTINGS, ticking_clock, tiny_clip, tiny_stream

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.streams import TaskStream
from vlcl_toolkit.training import session
from vlcl_toolkit.training.events import StepEvent, StopRun
from vlcl_toolkit.training.execution import Execution
from vlcl_toolkit.training.loop import run

# 20 training images in batches of 7, 7 and 6, or of 19 and 1: unequal parts, and a batch of one image.
CASES = {
    "finetune": ("finetune", SETTINGS | {"batch_size": 7}),
    "one_image": ("finetune", SETTINGS | {"batch_size": 19}),
    "zscl": (
        "zscl",
        SETTINGS
        | {"batch_size": 7, "reference_batch_size": 5, "average_every": 2, "image_image": True}
        | {"text_side": "student", "sentences_per_step": 2, "weight_consolidation": 1e-3},
    ),
    "moe_adapters": (
        "moe_adapters",
        {"iterations": 6, "warmup": 2, "batch_size": 7, "experts": 4, "bottleneck": 8}
        | {"selector_features": "clip", "selector_iterations": 5, "learning_rate": 1e-2}
        | {"selector_reference_iterations": 5, "balance_weight": 1.0},
    ),
    "moe_skip": (
        "moe_adapters",
        {"iterations": 3, "warmup": 1, "batch_size": 3, "experts": 22, "bottleneck": 8}
        | {"selector_features": "clip", "selector_iterations": 5, "learning_rate": 1e-2}
        | {"selector_reference_iterations": 5, "text_route": "end"},
    ),
    "diki": (
        "diki",
        {"epochs": 2, "batch_size": 7, "shrinkage": "auto", "learning_rate": 1.0}
        | {"length_vision": 4, "length_text": 4},
    ),
}


def stop_after(steps: int):
    """A callback that ends a run after that many steps."""
    taken = [0]

    def callback(event: object) -> None:
        taken[0] += isinstance(event, StepEvent)
        if taken[0] == steps:
            raise StopRun

    return callback


def main(folder: Path, cases: list[str], options: dict, clip: Clip | None = None) -> None:
    """Every case in a folder of its own; `stop`: after so many steps; `precision`: of the backbone."""
    torch.set_num_threads(1)
    session.monotonic = ticking_clock()
    stop = options.pop("stop", None)
    precision = options.pop("precision", "fp32")
    for case in cases:
        method, settings = CASES[case]
        run(
            method,
            stream_of(method),
            clip or tiny_clip(precision=precision),
            out=folder / case,
            config=settings,
            progress=False,
            callback=stop_after(stop) if stop else None,
            execution=Execution(**options),
        )


def stream_of(method: str) -> TaskStream:
    """Two tasks; the held-out one is left out to save time."""
    stream = tiny_stream() if method in ("finetune", "diki") else reference_stream()
    return replace(stream, held_out=())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), json.loads(sys.argv[3]))
