"""Figures as files: those of a comparison, and the committed gallery."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vlcl_toolkit import analysis, plotting
from vlcl_toolkit.analysis.comparison import score_table
from vlcl_toolkit.analysis.orders import When
from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.experiments.compare import compare, search
from vlcl_toolkit.files import data_path, make_folder, write_atomic
from vlcl_toolkit.load import load_clip, load_stream
from vlcl_toolkit.plotting.accuracy import accuracy_matrix, unseen_accuracy
from vlcl_toolkit.plotting.comparison import learning_rate_curves, method_comparison
from vlcl_toolkit.plotting.images import domain_examples
from vlcl_toolkit.plotting.style import new_figure, to_png
from vlcl_toolkit.plotting.zero_shot import pretraining_zero_shot
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.training.results import RunResult

GALLERY_SEEDS = (0, 1, 2)
LEARNING_RATES, ORDERS = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4), ("default", "reversed")
# What fine-tuning does to the network is shown at the rate that learns the task at hand best, where its price is high;
# the preset's is gentler.
BOLD = {"finetune": {"learning_rate": 4e-4}}
PAIR_ORDERS = (*ORDERS, "alphabetical")


def write_comparison(
    folder: Path, results: Sequence[RunResult], scores: pd.DataFrame
) -> list[Path]:
    """Write comparison.png, and for the first run of each method its matrix and its curves of unseen tasks."""
    width = max(9, scores["method"].nunique())  # room for a number above each method
    figure, ax = new_figure(width=width, height=4.5)
    method_comparison(scores, ax)
    pictures = {"comparison.png": to_png(figure)}
    for result in {result.method: result for result in reversed(results)}.values():
        pictures[f"matrix_{result.method}.png"] = _matrix(result)
        figure, ax = new_figure(width=9, height=5)
        unseen_accuracy(result.accuracy, ax, held_out=result.held_out)
        pictures[f"unseen_{result.method}.png"] = to_png(figure)
    return _write(folder, pictures)


def write_gallery(folder: Path) -> list[Path]:
    """Run what the gallery shows on the embedded stream (finished runs are not repeated) and draw it."""
    stream, clip = load_stream("mini"), load_clip("mini")
    results = compare(["all"], stream, clip, seeds=GALLERY_SEEDS, jobs=None)
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
        seeds=(0,),
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
        ["finetune"],
        stream,
        clip,
        seeds=GALLERY_SEEDS,
        orders=PAIR_ORDERS,
        configs=BOLD,
        jobs=None,
    )
    pictures["pairs.png"] = pair_figure(in_orders)
    pictures |= inside_figures(stream, clip)
    return paths + _write(folder, pictures)


def frozen_transfer(results: Sequence[RunResult]) -> float:
    """Transfer of the frozen CLIP (percent), over the same orders as these runs."""
    return float(np.mean([result.accuracy.iloc[0, 1:].mean() for result in results]))


def _write(folder: Path, pictures: dict[str, bytes]) -> list[Path]:
    make_folder(folder)
    for name, content in pictures.items():
        write_atomic(folder / name, content)
    return [folder / name for name in pictures]


INSIDE_METHODS = ("finetune", "prefix_tuning", "moe_adapters", "diki")
MAPPED = ("sketches", "digits", "signs", "faces")  # a map of seven domains is a crowd


def inside_figures(stream: TaskStream, clip: Clip) -> dict[str, bytes]:
    """Run the four methods with probes (finished runs are not repeated); pictures by file name."""
    runs = compare(INSIDE_METHODS, stream, clip, configs=BOLD, jobs=None, probes=True)
    by_method = {run.method: run for run in runs}
    finetune, moe = by_method["finetune"], by_method["moe_adapters"]
    return {
        "fine_tuning.png": _matrix(finetune),
        "drift.png": _drift(finetune),
        "towers.png": _towers(finetune),
        "attention.png": _attention([by_method["prefix_tuning"], by_method["diki"]]),
        "experts.png": _experts(moe),
        "routes.png": _routes([moe, by_method["diki"]]),
        "feature_map.png": _feature_map(finetune),
    }


def pair_figure(results: list[RunResult]) -> bytes:
    """Which domains hurt each other, from all runs of fine-tuning."""
    effects = analysis.pair_effects(analysis.pair_changes(results))
    figure, axes = plotting.new_figure(1, 2, width=14, height=5)
    states: tuple[When, When] = ("not yet learned", "learned before")
    for when, ax in zip(states, axes, strict=True):
        plotting.pair_effects(analysis.pair_matrix(effects, when), ax)
        ax.set_title(f"domains {when}", pad=16)
    return plotting.to_png(figure)


def _matrix(run: RunResult) -> bytes:
    figure, ax = new_figure(width=9, height=5)
    accuracy_matrix(run.accuracy, ax, held_out=run.held_out)
    return to_png(figure)


def _drift(run: RunResult) -> bytes:
    figure, axes = plotting.new_figure(1, 2, width=14, height=4.6)
    for tower, ax in zip(("image", "text"), axes, strict=True):
        plotting.drift_lines(analysis.drift_by_block(run.probes, tower=tower), ax)
        ax.set_title(f"{tower} tower")
    axes[0].get_legend().remove()
    return plotting.to_png(figure)


def _towers(run: RunResult) -> bytes:
    figure, ax = plotting.new_figure(width=10, height=4.6)
    plotting.lost_prediction_bars(analysis.lost_predictions(run.probes), ax)
    return plotting.to_png(figure)


def _attention(runs: list[RunResult]) -> bytes:
    figure, ax = plotting.new_figure(width=9, height=4.4)
    plotting.attention_lines(analysis.attention_to_prompts(runs), ax)
    return plotting.to_png(figure)


def _experts(run: RunResult) -> bytes:
    figure, ax = plotting.new_figure(width=10, height=5)
    plotting.expert_use_heat(analysis.expert_use(run.probes), ax)
    return plotting.to_png(figure)


def _routes(runs: list[RunResult]) -> bytes:
    figure, axes = plotting.new_figure(1, len(runs), width=15, height=5)
    for run, ax in zip(runs, axes, strict=True):
        plotting.decision_matrix(analysis.route_decisions(run.probes), ax)
        ax.set_title(run.method)
    return plotting.to_png(figure)


def _feature_map(run: RunResult) -> bytes:
    positions: pd.DataFrame = analysis.feature_map(run.probes, domains=MAPPED)
    quality = analysis.map_quality(run.probes, positions)
    stages = (0, len(run.order))
    figure, axes = plotting.new_figure(1, len(stages), width=14, height=5.4)
    for stage, ax in zip(stages, axes, strict=True):
        plotting.feature_map(positions, ax, stage=stage, quality=quality, trails=True)
    axes[0].get_legend().remove()
    return plotting.to_png(figure)
