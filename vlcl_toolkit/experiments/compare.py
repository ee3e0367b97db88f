"""Several runs that belong together: methods compared, tasks learned alone, a setting chosen on validation data.

Every run lies in its own default folder, so that what is finished is never run twice and an interrupted experiment
goes on where it was.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.experiments.jobs import Diverged, Job, OnResult, jobs_at_once, run_jobs
from vlcl_toolkit.methods import method_class, method_names
from vlcl_toolkit.methods.presets import choose_settings, preset_settings
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.training.results import RunResult

Order = str | Sequence[int | str]
Criterion = Literal["learned", "average"]


def choose_methods(names: Sequence[str], backbone: str, stream_id: str) -> tuple[str, ...]:
    """Registered method names; "all" stands for zero-shot and every method with a preset for the backbone.

    (The papers' settings, for full-size models, would take hours on a small one and teach nothing.)
    Raises UserError for an unknown name.
    """
    if list(names) == ["all"]:
        names = [
            name
            for name in method_names()
            if name == "zero_shot" or preset_settings(name, backbone, stream_id)
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
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    progress: bool = True,
    jobs: int | None = 1,
    diverged: Diverged | None = None,
    on_result: OnResult | None = None,
    **options: Any,
) -> list[RunResult]:
    """Run every method with every seed in every task order (none given: the stream's own).

    Args:
        configs: by method name, settings that override the preset.
        jobs: runs at once; None: see `jobs_at_once`. `options`: passed on to every `run`.
        diverged: gets the runs that diverge, while the others go on; see `run_jobs`. `on_result`: called with each run
            as it ends; see `OnResult`.

    Raises UserError for unknown methods or orders before anything is run.
    """
    plan = plan_comparison(methods, stream, clip.name, seeds, orders, configs, **options)
    return _run_all(plan, stream, clip, jobs, progress, diverged, on_result)


def plan_comparison(
    methods: Sequence[str],
    stream: TaskStream,
    backbone: str,
    seeds: Sequence[int] = (0,),
    orders: Sequence[Order] = (),
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> list[Job]:
    """The runs of `compare`, by order, method and seed, for whoever does them.

    Raises UserError for unknown methods or orders.
    """
    streams = [stream.reorder(order) for order in orders] or [stream]
    methods = choose_methods(methods, backbone, stream.id)
    for name in configs or {}:
        method_class(name)
    return [
        Job(method, ordered.names, seed, dict((configs or {}).get(method, {})), options)
        for ordered, method, seed in itertools.product(streams, methods, seeds)
    ]


def learn_alone(
    method: str,
    stream: TaskStream,
    clip: Clip,
    *,
    seeds: Sequence[int] = (0,),
    progress: bool = True,
    jobs: int | None = 1,
) -> list[RunResult]:
    """Let the method learn each task alone, from the frozen CLIP: what the task allows."""
    plan = [Job(method, (name,), seed) for name, seed in itertools.product(stream.names, seeds)]
    return _run_all(plan, stream, clip, jobs, progress)


def search(
    method: str,
    stream: TaskStream,
    clip: Clip,
    setting: str,
    values: Sequence[Any],
    *,
    seeds: Sequence[int] = (0, 1),
    orders: Sequence[Order] = (),
    config: Mapping[str, Any] | None = None,
    criterion: Criterion = "learned",
    evaluate_all: bool = False,
    progress: bool = True,
    jobs: int | None = 1,
    diverged: Diverged | None = None,
    **options: Any,
) -> list[RunResult]:
    """Run the method with each value of one setting, over orders and seeds; results in this order.

    Never choose by test accuracy. Validation images answer two questions: how well was each task learned
    (``RunResult.validation``), which rewards plasticity alone; and how well does the model do on all tasks after each
    (``RunResult.metrics["average"]`` of runs that are tested on validation images), which counts forgetting and
    zero-shot ability too.

    Args:
        config: other settings that differ from the preset.
        criterion: "learned": the first question; "average": the second, where every run tests the validation images
            of all tasks, in place of test images, after every task.
        evaluate_all: test all tasks after each (to show what a setting does), not only the one just learned.
        jobs: runs at once; None: see `jobs_at_once`. `options`: passed on to every `run`.
        diverged: gets the runs that diverge, while the others go on; see `run_jobs`.

    Raises UserError for an unknown setting or an unfit value before anything is run.
    """
    if not values:
        raise UserError(f"no value to try for {setting!r}; give at least one")
    settings = [{**(config or {}), setting: value} for value in values]
    for each in settings:
        choose_settings(method, clip.name, stream.id, each)
    if criterion == "average":
        stream, evaluate_all = stream.tested_on_validation(), True
    streams = [stream.reorder(order) for order in orders] or [stream]
    plan = [
        Job(method, ordered.names, seed, each, {"evaluate_all": evaluate_all, **options})
        for each, ordered, seed in itertools.product(settings, streams, seeds)
    ]
    return _run_all(plan, stream, clip, jobs, progress, diverged)


def _run_all(
    plan: Sequence[Job],
    stream: TaskStream,
    clip: Clip,
    jobs: int | None,
    progress: bool,
    diverged: Diverged | None = None,
    on_result: OnResult | None = None,
) -> list[RunResult]:
    return run_jobs(
        plan,
        stream,
        clip,
        at_once=jobs_at_once(clip, len(plan), jobs),
        progress=progress,
        diverged=diverged,
        on_result=on_result,
    )
