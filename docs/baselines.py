"""One baseline under many protocols: one factor changed at a time, on the miniature.

    python docs/baselines.py [--methods zero_shot finetune] [--out runs/baselines]

Prints the tables of docs/baselines.md. Every run lies in a folder of its own, so that a second call reads them.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from open_clip.model import QuickGELU

import vlcl_toolkit as vlcl
from vlcl_toolkit import Clip, RunResult, TaskStream
from vlcl_toolkit.training.metrics import metrics

SCORES = ("transfer", "average", "last")
# The rate that learns a task best; the preset's is gentler, and its steps are fewer: one of the factors.
BOLD = {"learning_rate": 4e-4, "iterations": 80, "warmup": 8}


@dataclass(frozen=True)
class Protocol:
    """A way of asking the same question; what is left out is as in the first one."""

    factor: str
    change: str
    stream: Callable[[TaskStream], TaskStream] = lambda stream: stream
    clip: Callable[[Clip], Clip] = lambda clip: clip
    seed: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Its name on disk."""
        return f"{self.factor}-{self.change}".replace(" ", "_").replace("/", "-")


def protocols() -> Iterator[Protocol]:
    """The usual protocol first."""
    yield Protocol("to begin with", "task given, all prompts and images, rate 4e-4, 80 steps")
    for seed in (1, 2):
        yield Protocol("seed", str(seed), seed=seed)
    for order in ("reversed", "alphabetical"):
        yield Protocol("task order", order, methodcaller("reorder", order))
    for space, words in (("odcl", "classes of all learned tasks"), ("all", "classes of all tasks")):
        change = methodcaller("with_label_space", space)
        yield Protocol("label space", f"{words} ({space})", change)
    yield Protocol("prompts", "the first template alone", _first_template)
    yield Protocol("prompts", "one template for all tasks", _one_template)
    for shots in (16, 5):
        yield Protocol("training images", f"{shots} per class", methodcaller("few_shot", shots))
    half = {"iterations": 40, "warmup": 4}
    yield Protocol("training", "half the steps", config=half)
    yield Protocol(
        "training",
        "half the steps and a quarter of the rate: the preset",
        config=half | {"learning_rate": 1e-4},
    )
    yield Protocol("division", "tested on the validation images", TaskStream.tested_on_validation)
    yield Protocol("weights", "run with QuickGELU, trained with GELU", clip=_quick_gelu)


def _first_template(stream: TaskStream) -> TaskStream:
    tasks = tuple(replace(task, templates=task.templates[:1]) for task in stream)
    return replace(stream, tasks=tasks)


def _one_template(stream: TaskStream) -> TaskStream:
    return replace(
        stream, tasks=tuple(replace(task, templates=("a photo of a {}.",)) for task in stream)
    )


def _quick_gelu(clip: Clip) -> Clip:
    for block in (*clip.model.visual.transformer.resblocks, *clip.model.transformer.resblocks):
        block.mlp.gelu = QuickGELU()
    return Clip(clip.model, clip.tokenizer, name=clip.name, pretrained="quick")


def definitions(result: RunResult) -> Iterator[tuple[str, float]]:
    """What papers call the average of one and the same run."""
    matrix = result.accuracy.to_numpy()[1:]  # without the frozen CLIP's row
    stages = len(matrix)
    seen = [matrix[stage, : stage + 1].mean() for stage in range(stages)]
    yield "Average of MTIL: all tasks, learned or not, after every task", metrics(matrix)["average"]
    yield "Last: all tasks, after the last one", metrics(matrix)["last"]
    yield "Average incremental accuracy: learned tasks, mean over stages", float(np.mean(seen))
    yield "Right after learning: the diagonal", float(np.diag(matrix).mean())
    yield "Transfer: tasks not yet learned, mean per task", metrics(matrix)["transfer"]
    unseen = [matrix[i, j] for j in range(stages) for i in range(j)]
    yield "The same, mean over cells instead", float(np.mean(unseen))


def main(
    methods: tuple[str, ...] = ("zero_shot", "finetune"), out: Path = Path("runs/baselines")
) -> None:
    """Run every protocol with every method, and print scores and differences in Markdown.

    Args:
        methods: their names.
        out: folder of the runs.
    """
    print(f"| factor | change | {' | '.join(methods)} |")
    print(f"|---|---|{'---|' * len(methods)}")
    usual: dict[str, RunResult] = {}
    for protocol in protocols():
        cells = []
        for method in methods:
            if method == "zero_shot" and (protocol.seed or protocol.config):
                cells.append("the same")
                continue
            result = vlcl.run(
                method,
                protocol.stream(vlcl.load_stream("mini")),
                protocol.clip(vlcl.load_clip("mini")),
                seed=protocol.seed,
                config={} if method == "zero_shot" else BOLD | dict(protocol.config),
                out=out / method / protocol.folder,
            )
            usual.setdefault(method, result)
            cells.append(_cell(result, usual[method]))
        print(f"| {protocol.factor} | {protocol.change} | {' | '.join(cells)} |", flush=True)
    print(f"\n| one run, seed 0 | {' | '.join(usual)} |\n|---|{'---|' * len(usual)}")
    columns = [list(definitions(result)) for result in usual.values()]
    for row in zip(*columns, strict=True):
        print(f"| {row[0][0]} | {' | '.join(f'{value:.1f}' for _, value in row)} |")


def _cell(result: RunResult, usual: RunResult) -> str:
    values = (result.metrics[name] for name in SCORES)
    if result is usual:
        return " / ".join(f"{value:.1f}" for value in values)
    found = zip(values, (usual.metrics[name] for name in SCORES), strict=True)
    return " / ".join(f"{value:.1f} ({value - before:+.1f})" for value, before in found)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
