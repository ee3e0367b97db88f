"""Exact savings, each measured beside the same work without it. The numbers that come out are the same."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from benchmarks.material import noise_stream
from benchmarks.measure import side_by_side
from benchmarks.steps import Stepper, bench_method
from parity.official_order import OfficialOrder

from vlcl_toolkit.clip.model import Clip, encode_tokens
from vlcl_toolkit.methods.zscl.zscl import Zscl
from vlcl_toolkit.training.devices import Devices

Work = Callable[[], Any]


def measure_savings(
    clip: Clip, *, batch_size: int, scale: float | int, repeats: int
) -> list[dict[str, Any]]:
    """Rows "saving", "without_ms", "with_ms", "ratio", on a task like Aircraft (100 classes).

    Args:
        batch_size: of training steps. scale: of the numbers of images; see `noise_stream`.
        repeats: of every measurement; the median counts.
    """
    rows = []
    for saving, without, with_it in _comparisons(clip, batch_size, scale):
        slow, fast = side_by_side(without, with_it, clip.device, repeats)
        rows.append(
            {
                "saving": saving,
                "without_ms": 1e3 * slow,
                "with_ms": 1e3 * fast,
                "ratio": slow / fast,
            }
        )
    return rows


def _comparisons(
    clip: Clip, batch_size: int, scale: float | int
) -> Iterator[tuple[str, Work, Work]]:
    stream = noise_stream(clip, scale=scale, tasks=1)
    task, images = stream[0], stream[0].test.subset(torch.arange(4))
    tokens = clip.tokenize(task.prompts(0))

    def texts(whole: bool) -> Work:
        @torch.no_grad()
        def work() -> Any:
            return encode_tokens(clip.model, tokens, length=tokens.shape[1] if whole else None)

        return work

    yield "text tower only up to the end of the texts", texts(True), texts(False)

    with bench_method("finetune", clip) as method:
        method.enter_task(0, task)

        def from_scratch() -> None:
            method.forget_class_features()
            method.classify(images, task)

        yield (
            "class vectors once until weights change (4 images)",
            from_scratch,
            lambda: method.classify(images, task),
        )
    settings: dict[str, Any] = {"batch_size": batch_size}
    with bench_method("zscl", clip, **settings) as method:
        assert isinstance(method, Zscl)
        zscl = method
        zscl.enter_stream(stream)
        stepper = Stepper(zscl, task, 0, Devices(clip))
        worth = zscl.worth_caching

        def teacher(kept: bool) -> Work:
            def work() -> None:
                zscl.worth_caching = worth if kept else (lambda data: False)  # type: ignore[method-assign]
                stepper.take(1)

            return work

        yield "ZSCL step: teacher's image features once per run", teacher(False), teacher(True)

        def forget() -> None:
            zscl.teacher._texts = None
            stepper.take(1)

        yield "ZSCL step: teacher's text features once per run", forget, teacher(True)
    settings |= {"selector_iterations": 1, "selector_reference_iterations": 1}
    copy = Clip(deepcopy(clip.model), clip.tokenizer, name=clip.name, device=clip.device)
    with (
        bench_method(OfficialOrder, copy, **settings) as official,
        bench_method("moe_adapters", clip, **settings) as grouped,
    ):
        works: list[Work] = []
        for method in (official, grouped):
            method.enter_stream(stream)
            stepper = Stepper(method, task, 0, Devices(method.clip))
            works.append(partial(stepper.take, 1))
        yield (
            "MoE-Adapters step: chosen experts in one product, texts up to their end",
            works[0],
            works[1],
        )
