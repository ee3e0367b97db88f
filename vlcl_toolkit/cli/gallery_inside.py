"""The gallery's look inside: what four methods do to the network on the embedded stream."""

import pandas as pd

from vlcl_toolkit import analysis, plotting
from vlcl_toolkit.analysis.orders import When
from vlcl_toolkit.clip import Clip
from vlcl_toolkit.experiments import compare
from vlcl_toolkit.results import RunResult
from vlcl_toolkit.streams.base import TaskStream

METHODS = ("finetune", "prefix_tuning", "moe_adapters", "diki")
MAPPED = ("sketches", "digits", "signs", "faces")  # a map of seven domains is a crowd


def inside_figures(stream: TaskStream, clip: Clip) -> dict[str, bytes]:
    """Run the four methods with probes (finished runs are not repeated); pictures by file name."""
    runs = compare(METHODS, stream, clip, jobs=None, probes=True)
    by_method = {run.method: run for run in runs}
    finetune, moe = by_method["finetune"], by_method["moe_adapters"]
    return {
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
    steps = (0, len(run.order))
    figure, axes = plotting.new_figure(1, len(steps), width=14, height=5.4)
    for step, ax in zip(steps, axes, strict=True):
        plotting.feature_map(positions, ax, step=step, quality=quality, trails=True)
    axes[0].get_legend().remove()
    return plotting.to_png(figure)
