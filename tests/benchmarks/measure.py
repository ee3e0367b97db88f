"""Time, memory and arithmetic of a piece of work, and what the device can do at best."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

_SIDES = {"cpu": 1024, "cuda": 8192}  # of the matrices
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def finish(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Of one call, all of it."""
    finish(device)
    start = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - start


def operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products and attention in one call (2 per multiply-add)."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def peak_rate(precision: str, device: torch.device, repeats: int = 10) -> float:
    """Operations per second of a large matrix product: the best that a step could reach here."""
    side = _SIDES.get(device.type, 1024)
    a = torch.randn(side, side, device=device, dtype=_DTYPES[precision])
    with torch.no_grad():
        seconds(lambda: a @ a, device)
        return 2 * side**3 / min(seconds(lambda: a @ a, device) for _ in range(repeats))


def side_by_side(
    one: Callable[[], Any], other: Callable[[], Any], device: torch.device, repeats: int
) -> tuple[float, float]:
    """Median seconds of two pieces of work, called in turn so that both see the same machine."""
    seconds(one, device), seconds(other, device)  # first calls set things up
    pairs = [(seconds(one, device), seconds(other, device)) for _ in range(repeats)]
    return median(first for first, _ in pairs), median(second for _, second in pairs)
