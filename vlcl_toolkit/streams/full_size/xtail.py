"""X-TAIL: ten data sets of MTIL (without CIFAR100), and no task identity when a test image is classified.

Source: RAIL (Xu et al. 2024), its code: CoOp's splits, full test sets, training images drawn by class,
one template for all, and class names that say what the data sets' templates would say. The authors'
draws depend on how many evaluations came before; here each data set has a generator of its own.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vlcl_toolkit.seeds import derive_seed
from vlcl_toolkit.streams.base import Reference, Task, TaskStream
from vlcl_toolkit.streams.full_size.mtil import chosen_sets, mtil_task
from vlcl_toolkit.streams.location import DataLocation, fingerprint
from vlcl_toolkit.streams.pictures import joined
from vlcl_toolkit.streams.splits import XTAIL, facts

TEMPLATE = "a photo of a {}."


def xtail_stream(
    name: str = "xtail-16shot",
    location: DataLocation | None = None,
    *,
    sets: Sequence[str] | None = None,
    seed: int = 0,
    reference: Callable[[], Reference] | None = None,
) -> TaskStream:
    """Load X-TAIL; its label space is "all".

    Args:
        name: a key of `XTAIL`.
        location: where the files are and how they are read; None: defaults.
        sets: only these data sets, in the order of `name`.
        seed: of the few-shot draws.
        reference: reference data of the stream, see `reference_source`.

    Raises:
        UserError: a set is missing or damaged, or its sizes differ from the published ones.
    """
    variant, location = XTAIL[name], location or DataLocation()
    order = chosen_sets(facts("mtil")["orders"][variant.order], sets)
    tasks = [_task(data_set, location, variant.shots, seed) for data_set in order]
    verified = "" if location.verify else "-unverified"
    stream = TaskStream(
        id=name.replace("-II", ""),
        tasks=tuple(tasks),
        split_id=f"xtail{verified}-{fingerprint(tasks)}",
        reference=reference,
        label_space="all",
    )
    ready, skipped = location.prepare(stream.tasks)
    return replace(stream, tasks=ready, skipped=skipped)


def _task(name: str, location: DataLocation, shots: int | None, seed: int) -> Task:
    task = mtil_task(name, location, "coop")
    if (
        name == "MNIST"
    ):  # has no split file: all of its training images, as the official code has it
        task = replace(task, train=joined((task.train, task.validation)))
    draw = random.Random(derive_seed("xtail", name, seed))
    rows = few_shot_rows(task.train.labels.tolist(), shots or 0, draw)
    return replace(
        task,
        class_names=tuple(_renamed(name, text) for text in task.class_names),
        templates=(TEMPLATE,),
        train=task.train.subset(rows),
    )


def _renamed(data_set: str, class_name: str) -> str:
    if data_set == "EuroSAT":
        return f"{class_name} satellite location"
    if data_set == "MNIST":
        return f'number: "{class_name}"'
    return class_name


def few_shot_rows(
    labels: Sequence[int], shots: int, draw: random.Random | np.random.RandomState
) -> list[int]:
    """Training rows of a few-shot set, class after class, as the official samplers draw them.

    Args:
        shots: per class; a class with fewer images is drawn with replacement. Below 1: all rows.
        draw: Python's state: classes in order of first appearance (CoOp's sets); NumPy's: ascending
            (MNIST, CIFAR100).
    """
    if shots < 1:
        return list(range(len(labels)))
    members: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        members.setdefault(label, []).append(row)
    chosen: list[int] = []
    if isinstance(draw, np.random.RandomState):
        for label in sorted(members):
            replacement = len(members[label]) < shots
            chosen += draw.choice(members[label], shots, replace=replacement).tolist()
        return chosen
    for rows in members.values():
        few = len(rows) < shots
        chosen += draw.choices(rows, k=shots) if few else draw.sample(rows, shots)
    return chosen
