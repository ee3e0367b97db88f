"""Views for `run_explorer` of routes: who goes where, which experts work, how strongly prompts act.

They need a run with probes (`run(..., probes=True)`), of a method that has routes. Before the first
task there are none, which they say.
"""

from matplotlib.figure import Figure

from vlcl_toolkit import analysis, plotting
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.results import RunResult


def decision_view(result: RunResult, step: int, domain: str) -> Figure:
    """True domain by chosen route."""
    _check_step(step)
    figure, ax = plotting.new_figure(width=7, height=3.6)
    plotting.decision_matrix(analysis.route_decisions(result.probes, step=step), ax)
    return figure


def experts_view(result: RunResult, step: int, domain: str) -> Figure:
    """Which experts of each block the domain chooses, in both towers."""
    _check_step(step)
    figure, axes = plotting.new_figure(1, 2, width=13, height=3.2)
    for tower, ax in zip(("image", "text"), axes, strict=True):
        use = analysis.expert_use(result.probes, step=step, tower=tower)
        plotting.expert_block_heat(use, ax, domain=domain)
        ax.set_title(f"{tower} tower")
    return figure


def calibration_view(result: RunResult, step: int, domain: str) -> Figure:
    """Whose prompts every image gets, and at which weight."""
    _check_step(step)
    figure, ax = plotting.new_figure(width=10, height=3.8)
    plotting.calibration_strips(analysis.calibration(result.probes, step=step), ax)
    return figure


def _check_step(step: int) -> None:
    if step == 0:
        raise UserError(
            "before the first task every image goes through the frozen network; there is nothing to "
            "choose from yet; move the slider to a later step"
        )
