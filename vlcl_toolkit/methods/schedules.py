"""Learning-rate schedules."""

import math


def cosine_with_warmup(step: int, last_step: int, warmup: int, peak: float) -> float:
    """Linear warm-up, then half a cosine that reaches exactly 0 at `last_step`.

    The rate equals `peak` at steps `warmup - 1` and `warmup`. A loop shorter than the warm-up
    (short class-incremental tasks) never leaves it; one of the same length ends at `peak`, where
    the official code divides by zero.

    Args:
        step: 0 .. last_step; a loop that visits `last_step` takes `last_step + 1` steps.
        last_step: N of the papers.
        warmup: number of warm-up steps.
        peak: largest rate.

    Source: the official repositories of ZSCL and MoE-Adapters.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if last_step <= warmup:
        return peak
    return peak / 2 * (1 + math.cos(math.pi * (step - warmup) / (last_step - warmup)))


def cosine_to_floor(step: int, steps: int, peak: float, *, floor: float, warmup: int = 0) -> float:
    """Linear warm-up, then half a cosine from `peak` that ends one step above `floor`.

    Args:
        step: 0 .. steps - 1.
        warmup: steps of warm-up, at rates `peak * k / (warmup + 1)` for k = 1 .. warmup.
        floor: where the cosine would be at step `steps`.

    Raises:
        ValueError: `warmup >= steps`, for which the cosine is undefined.

    Source: the official repository of DIKI, with floor = peak / 1000 and no warm-up.
    """
    if warmup >= steps:
        raise ValueError(f"warm-up of {warmup} steps must end before step {steps}")
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / (steps - warmup)
    return floor + (peak - floor) / 2 * (1 + math.cos(math.pi * progress))
