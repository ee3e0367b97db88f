"""Figures as files: those of a comparison, and the committed gallery."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vlcl_toolkit.analysis.comparison import score_table
from vlcl_toolkit.cli.gallery_inside import inside_figures, pair_figure
from vlcl_toolkit.clip import load_clip
from vlcl_toolkit.experiments import compare, search
from vlcl_toolkit.files import data_path, make_folder, write_atomic
from vlcl_toolkit.plotting.accuracy import accuracy_matrix, unseen_accuracy
from vlcl_toolkit.plotting.comparison import learning_rate_curves, method_comparison
from vlcl_toolkit.plotting.images import domain_examples
from vlcl_toolkit.plotting.pretraining import pretraining_zero_shot
from vlcl_toolkit.plotting.style import new_figure, to_png
from vlcl_toolkit.results import RunResult
from vlcl_toolkit.streams.registry import load_stream

METHODS = (
    "zero_shot",
    "finetune",
    "lwf",
    "wise_ft",
    "icarl",
    "prefix_tuning",
    "zscl",
    "moe_adapters",
    "diki",
)
GALLERY_SEEDS = (0, 1, 2)
LEARNING_RATES, ORDERS = (2e-4, 2.8e-4, 4e-4, 5.6e-4, 8e-4), ("default", "reversed")
PAIR_ORDERS = (*ORDERS, "alphabetical")


def write_comparison(
    folder: Path, results: Sequence[RunResult], scores: pd.DataFrame
) -> list[Path]:
    """Write comparison.png, and for the first run of each method its matrix and its curves of unseen tasks."""
    figure, ax = new_figure(width=9, height=4.5)
    method_comparison(scores, ax)
    pictures = {"comparison.png": to_png(figure)}
    for result in {result.method: result for result in reversed(results)}.values():
        figure, ax = new_figure(width=9, height=5)
        accuracy_matrix(result.accuracy, ax, held_out=result.held_out)
        pictures[f"matrix_{result.method}.png"] = to_png(figure)
        figure, ax = new_figure(width=9, height=5)
        unseen_accuracy(result.accuracy, ax, held_out=result.held_out)
        pictures[f"unseen_{result.method}.png"] = to_png(figure)
    return _write(folder, pictures)


def write_gallery(folder: Path) -> list[Path]:
    """Run what the gallery shows on the embedded stream (finished runs are not repeated) and draw it."""
    stream, clip = load_stream("mini"), load_clip("mini")
    results = compare(METHODS, stream, clip, seeds=GALLERY_SEEDS, jobs=None)
    paths = write_comparison(folder, results, score_table(results))
    tasks = (*stream, *stream.held_out)
    figure, ax = new_figure(width=9, height=9.5)
    domain_examples(tasks, ax)
    pictures = {"domains.png": to_png(figure)}
    figure, ax = new_figure(width=9, height=5)
    log = pd.read_csv(data_path("mini", "pretraining.csv"))
    pretraining_zero_shot(log, ax, domains=[task.name for task in tasks])
    pictures["pretraining.png"] = to_png(figure)
    tried = search(
        "finetune",
        stream,
        clip,
        "learning_rate",
        LEARNING_RATES,
        orders=ORDERS,
        evaluate_all=True,
        jobs=None,
    )
    figure, ax = new_figure(width=9, height=4.5)
    learning_rate_curves(
        score_table(tried, "learning_rate"), ax, frozen_transfer=frozen_transfer(tried)
    )
    pictures["learning_rate.png"] = to_png(figure)
    in_orders = compare(
        ["finetune"], stream, clip, seeds=GALLERY_SEEDS, orders=PAIR_ORDERS, jobs=None
    )
    pictures["pairs.png"] = pair_figure(in_orders)
    pictures |= inside_figures(stream, clip)
    return paths + _write(folder, pictures)


def frozen_transfer(results: Sequence[RunResult]) -> float:
    """Transfer of the frozen backbone (percent), over the same orders as these runs."""
    return float(np.mean([result.accuracy.iloc[0, 1:].mean() for result in results]))


def _write(folder: Path, pictures: dict[str, bytes]) -> list[Path]:
    make_folder(folder)
    for name, content in pictures.items():
        write_atomic(folder / name, content)
    return [folder / name for name in pictures]
