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


def one_cycle(step: int, steps: int, peak: float) -> tuple[float, float]:
    """Learning rate and Adam's beta1 of `torch.optim.lr_scheduler.OneCycleLR` with its defaults.

    The rate rises from peak / 25 over the first 30 % of the steps and falls to peak / 250,000, both as
    half a cosine; beta1 goes the other way, from 0.95 to 0.85 and back.

    Args:
        step: 0 .. steps - 1.
    """
    top = 0.3 * steps - 1

    def between(start: float, end: float, progress: float) -> float:
        return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))

    if step <= top:
        progress = step / top if top else 1.0
        return between(peak / 25, peak, progress), between(0.95, 0.85, progress)
    progress = (step - top) / (steps - 1 - top)
    return between(peak, peak / 25e4, progress), between(0.85, 0.95, progress)
