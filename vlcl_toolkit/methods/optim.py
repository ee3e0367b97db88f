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
