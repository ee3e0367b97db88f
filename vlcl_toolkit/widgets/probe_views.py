"""Views for a `RunExplorer` that look inside a model: functions of a run, a stage and a domain.

They need a run with probes (`run(..., probes=True)`).
"""

import pandas as pd
from matplotlib.figure import Figure

from vlcl_toolkit import analysis, plotting
from vlcl_toolkit.training.results import RunResult
from vlcl_toolkit.widgets.explorer import ViewFunction


def drift_view(result: RunResult, stage: int, domain: str) -> Figure:
    """Drift through the blocks of both towers, all domains; the same limits at every stage."""
    figure, axes = plotting.new_figure(1, 2, width=11, height=3.8, sharey=True)
    for tower, ax in zip(("image", "text"), axes, strict=True):
        drift = analysis.drift_by_block(result.probes, stage=stage, tower=tower)
        plotting.drift_lines(drift, ax)
        ax.set_title(f"{tower} tower")
    axes[0].get_legend().remove()
    axes[1].set_ylabel("")
    table = result.probes.drift()
    most = table.loc[table["position"] == "class", "relative_norm"].max()
    axes[0].set_ylim(-0.02, 1.05 * max(most, 0.1))
    return figure


def sides_view(result: RunResult, stage: int, domain: str) -> Figure:
    """What zero-shot knew and the method lost, by the tower that moved, all domains."""
    figure, ax = plotting.new_figure(width=10, height=3.4)
    plotting.lost_prediction_bars(analysis.lost_predictions(result.probes), ax, stage=stage)
    return figure


def confusion_view(result: RunResult, stage: int, domain: str) -> Figure:
    """Where the images of the domain's classes went, in points against the frozen CLIP."""
    figure, ax = plotting.new_figure(width=8, height=5.5)
    plotting.confusion_change(analysis.confusion_drift(result.probes, stage, domain), ax)
    return figure


def map_view(
    positions: pd.DataFrame, quality: pd.DataFrame | None = None, *, by_class: bool = False
) -> ViewFunction:
    """A view of one map, for an explorer of the run that it was made from.

    Args:
        positions: of `analysis.feature_map` or `analysis.feature_film`.
        quality: of `analysis.map_quality`; its numbers are written below the map.
        by_class: True: the chosen domain coloured by class, with its class texts named; the others
            in grey.
    """

    def render(result: RunResult, stage: int, domain: str) -> Figure:
        figure, ax = plotting.new_figure(width=6.2 if by_class else 7.5, height=5.2)
        chosen = domain if by_class else None
        plotting.feature_map(positions, ax, stage=stage, domain=chosen, quality=quality)
        return figure

    return render


def decision_view(result: RunResult, stage: int, domain: str) -> Figure:
    """True domain by chosen route."""
    if stage == 0:
        return _frozen()
    figure, ax = plotting.new_figure(width=7, height=3.6)
    plotting.decision_matrix(analysis.route_decisions(result.probes, stage=stage), ax)
    return figure


def experts_view(result: RunResult, stage: int, domain: str) -> Figure:
    """Which experts of each block the domain chooses, in both towers."""
    if stage == 0:
        return _frozen()
    figure, axes = plotting.new_figure(1, 2, width=13, height=3.2)
    for tower, ax in zip(("image", "text"), axes, strict=True):
        use = analysis.expert_use(result.probes, stage=stage, tower=tower)
        plotting.expert_block_heat(use, ax, domain=domain)
        ax.set_title(f"{tower} tower")
    return figure


def calibration_view(result: RunResult, stage: int, domain: str) -> Figure:
    """Whose prompts every image gets, and at which weight."""
    if stage == 0:
        return _frozen()
    figure, ax = plotting.new_figure(width=10, height=3.8)
    plotting.calibration_strips(analysis.calibration(result.probes, stage=stage), ax)
    return figure


def _frozen() -> Figure:
    """Said in place of a picture at stage 0, where a slider starts: it is no mistake of the reader."""
    figure, ax = plotting.new_figure(width=7, height=1.2)
    ax.axis("off")
    text = (
        "Stage 0: every image goes through the frozen CLIP, so there is nothing to choose from.\n"
    )
    ax.text(0, 0.5, text + "Move the slider to a later stage.", va="center")
    return figure
