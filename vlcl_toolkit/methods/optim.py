"""Learning-rate schedules."""

import math


def cosine_with_warmup(step: int, last_step: int, warmup: int, peak: float) -> float:
    """Linear warm-up, then half a cosine that reaches exactly 0 at `last_step`.

    The rate equals `peak` at steps `warmup - 1` and `warmup`.

    Args:
        step: 0 .. last_step; a loop that visits `last_step` takes `last_step + 1` steps.
        last_step: N of the papers.
        warmup: number of warm-up steps, below `last_step`.
        peak: largest rate.

    Raises:
        ValueError: `warmup >= last_step`, for which the cosine is undefined.

    Source: the official repositories of ZSCL and MoE-Adapters.
    """
    if warmup >= last_step:
        raise ValueError(f"warm-up of {warmup} steps must end before step {last_step}")
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak / 2 * (1 + math.cos(math.pi * (step - warmup) / (last_step - warmup)))
