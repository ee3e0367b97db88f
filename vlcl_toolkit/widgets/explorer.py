"""Walk through finished runs: a method, a stage and a domain drive any number of views at once."""

import functools
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
from matplotlib.figure import Figure

from vlcl_toolkit.analysis.comparison import check_comparable
from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.training.results import RunResult
from vlcl_toolkit.widgets.keys import guard_keys
from vlcl_toolkit.widgets.order import sequence_html
from vlcl_toolkit.widgets.view import View, stack

ViewFunction = Callable[[RunResult, int, str], Figure]


class RunExplorer(ipywidgets.VBox):
    """Choose a run, a stage ("after task k") and a domain; every view follows.

    A figure is rendered once for each choice; moving back shows it at once. What a run cannot show,
    for instance because the probe was not recorded, is said in place of the picture.

    Attributes:
        run, domain: the drop-down lists. `stage`: the slider, 0 (frozen CLIP) to T.
        views: one `View` per function, with `picture` and `error_view`.
    """

    def __init__(
        self,
        runs: RunResult | Sequence[RunResult] | Mapping[str, RunResult],
        views: Sequence[tuple[str, ViewFunction]],
        *,
        stage: int | None = None,
        domain: str | None = None,
    ):
        """Show the first run.

        Args:
            runs: one or several, of one stream and backbone; a mapping names them.
            views: heading, and a function of the run, the stage (0 .. T) and the domain.
            stage: the initial one; None: after the last task.
            domain: the initial one; None: that of the first task.

        Raises:
            UserError: no run; runs that cannot be compared; an unknown stage or domain.
        """
        self._runs = named_runs(runs)
        first = next(iter(self._runs.values()))
        stages, domains = len(first.order), [*first.order, *first.held_out.columns]
        if domain is not None and domain not in domains:
            raise unknown_name("domain", domain, domains)
        if stage is not None and not 0 <= stage <= stages:
            raise UserError(f"stage must be between 0 and {stages}; found {stage}")
        w = ipywidgets
        self.run = w.Dropdown(options=list(self._runs), description="Run")
        self.domain = w.Dropdown(options=domains, value=domain or domains[0], description="Domain")
        self.stage = w.IntSlider(
            value=stages if stage is None else stage,
            max=stages,
            description="Stage (after task k)",
            continuous_update=False,
            style={"description_width": "initial"},
            layout={"width": "26em"},
        )
        self._place = w.HTML()
        self.views = [View(label) for label, _ in views]
        self._functions = [render for _, render in views]
        choices = w.HBox([self.run, self.domain], layout={"flex_flow": "row wrap"})
        stages_row = w.HBox([self.stage, self._place], layout={"flex_flow": "row wrap"})
        pictures = w.HBox(self.views, layout={"flex_flow": "row wrap", "grid_gap": "1em"})
        super().__init__([choices, stages_row, pictures])
        guard_keys(self)
        for control in (self.run, self.domain, self.stage):
            control.observe(self.refresh, "value")
        self.refresh()

    @property
    def choice(self) -> tuple[RunResult, int, str]:
        """The run, the stage and the domain chosen now."""
        return self._runs[self.run.value], self.stage.value, self.domain.value

    def refresh(self, _: object = None) -> None:
        """Let every view show the present choice."""
        result, stage, domain = self.choice
        before, after = result.order[:stage], result.order[stage:]
        learned = sequence_html(before) if before else "nothing: the frozen CLIP"
        self._place.value = f"learned: {learned}" + (
            f"; to come: {', '.join(after)}" if after else ""
        )
        key = self.run.value, stage, domain
        for view, render in zip(self.views, self._functions, strict=True):
            view.show(key, functools.partial(render, result, stage, domain))

    def figure(self) -> Figure:
        """All views of the present choice as one static figure, for readers without a kernel.

        Raises:
            UserError: a view cannot be rendered.
        """
        return stack(
            [
                (view.label, render(*self.choice))
                for view, render in zip(self.views, self._functions, strict=True)
            ]
        )


def named_runs(
    runs: RunResult | Sequence[RunResult] | Mapping[str, RunResult],
) -> dict[str, RunResult]:
    """Runs by the name that the page shows: the method, and whatever else tells them apart.

    Raises:
        UserError: there is none, or they cannot be compared.
    """
    if isinstance(runs, Mapping):
        names, results = [str(name) for name in runs], list(runs.values())
    else:
        results = [runs] if isinstance(runs, RunResult) else list(runs)
        names = [result.method for result in results]
        for detail in (
            lambda r: f"seed {r.seed}",
            lambda r: " → ".join(r.order),
            lambda r: r.folder,
        ):
            if len(set(names)) < len(names) and len({str(detail(r)) for r in results}) > 1:
                names = [f"{n}, {detail(r)}" for n, r in zip(names, results, strict=True)]
    if not results:
        raise UserError("no runs given; pass at least one")
    check_comparable(results)
    return dict(zip(names, results, strict=True))
