"""Several runs that belong together: methods compared, tasks learned alone, a setting chosen on validation data.

Every run lies in its own default folder, so that what is finished is never run twice and an interrupted experiment
goes on where it was.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from vlcl_toolkit.clip import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_config, method_class, method_names
from vlcl_toolkit.recipes import recipe_config
from vlcl_toolkit.results import RunResult
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.training import run

Order = str | Sequence[int | str]


def choose_methods(names: Sequence[str], stream_id: str) -> tuple[str, ...]:
    """Registered method names; "all" stands for zero-shot and every method with a recipe for the stream.

    (The paper's settings, for full-size models, would take hours on a small stream and teach nothing.)
    Raises UserError for an unknown name.
    """
    if list(names) == ["all"]:
        names = [
            name for name in method_names() if name == "zero_shot" or recipe_config(name, stream_id)
        ]
        return tuple(sorted(names, key=lambda name: name != "zero_shot"))
    return tuple(method_class(name).name for name in names)


def compare(
    methods: Sequence[str],
    stream: TaskStream,
    clip: Clip,
    *,
    seeds: Sequence[int] = (0,),
    orders: Sequence[Order] = (),
    progress: bool = True,
) -> list[RunResult]:
    """Run every method with every seed in every task order (none given: the stream's own).

    Raises UserError for unknown methods or orders before anything is run.
    """
    streams = [stream.reorder(order) for order in orders] or [stream]
    methods = choose_methods(methods, stream.id)
    return [
        run(method, ordered, clip, seed=seed, progress=progress)
        for ordered, method, seed in itertools.product(streams, methods, seeds)
    ]


def learn_alone(
    method: str,
    stream: TaskStream,
    clip: Clip,
    *,
    seeds: Sequence[int] = (0,),
    progress: bool = True,
) -> list[RunResult]:
    """Let the method learn each task alone, from the frozen backbone: what the task allows."""
    singles = [stream.subset([name]) for name in stream.names]
    return [
        run(method, single, clip, seed=seed, progress=progress)
        for single, seed in itertools.product(singles, seeds)
    ]


def search(
    method: str,
    stream: TaskStream,
    clip: Clip,
    setting: str,
    values: Sequence[Any],
    *,
    seeds: Sequence[int] = (0, 1),
    orders: Sequence[Order] = (),
    progress: bool = True,
) -> list[RunResult]:
    """Run the method with each value of one setting, over seeds and orders.

    Choose by ``RunResult.validation`` (the accuracy on validation images of each task right after learning it), never
    by test accuracy. Raises UserError for an unknown setting or an unfit value before anything is run.
    """
    if not values:
        raise UserError(f"no value to try for {setting!r}; give at least one")
    for value in values:
        make_config(method, {setting: value})
    streams = [stream.reorder(order) for order in orders] or [stream]
    return [
        run(method, ordered, clip, seed=seed, config={setting: value}, progress=progress)
        for value, ordered, seed in itertools.product(values, streams, seeds)
    ]
