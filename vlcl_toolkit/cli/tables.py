"""Tables in the shell."""

import math
import re
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.files import read_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from torch import Tensor

    from vlcl_toolkit.experiments.jobs import Diverged, Job
    from vlcl_toolkit.methods.official_checkpoints import Imported
    from vlcl_toolkit.training.results import RunResult

COMPACT: dict[str, Any] = {
    "box": SIMPLE,
    "collapse_padding": True,
    "pad_edge": False,
}  # fits 80 columns
SCORE_DEFINITIONS = {
    "mtil": "MTIL: Average over all rows and tasks, Transfer over rows before a task is learned",
    "class_incremental": "class-incremental: Average and Last over stages, of the accuracy on all "
    "classes seen so far",
}
"""How the scores of a run are defined; "class_incremental" where the label space is "seen"."""

SCORE_TITLES = {
    "transfer": "Transfer↑",
    "average": "Average↑",
    "last": "Last↑",
    "forgetting": "Forgetting↓",
    "learned": "just learned↑",
    "held_out": "held out↑",
}


def percent(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.1f}"


def _mean_std(table: "pd.DataFrame", row: Any, column: str, digits: int = 1) -> str:
    mean, std = table.loc[row, (column, "mean")], table.loc[row, (column, "std")]
    if math.isnan(mean):
        return ""
    return f"{mean:.{digits}f}" + ("" if math.isnan(std) else f"±{std:.{digits}f}")


def print_run(folder: str | Path) -> None:
    """The accuracy matrix and the scores of the run in a folder, finished or not.

    Raises:
        UserError: there is no run, or its files are damaged.
    """
    config, record = read_run(Path(folder))
    try:
        console = Console()
        table, summary = _run_table(config, record, console.width), _run_summary(record)
    except (KeyError, TypeError, ValueError) as error:
        path = Path(folder, "result.json")
        raise UserError(f"{path} is not a run's result ({error!r}); run it again") from error
    console.print(table)
    for line in summary:
        console.print(line)
    console.print(f"run folder: {folder}", soft_wrap=True)
    if not record["complete"]:
        console.print("[yellow]interrupted: the same run goes on where it stopped[/yellow]")


def _run_table(config: dict[str, Any], record: dict[str, Any], width: int) -> Table:
    backbone, held_out = config["backbone"], record["held_out"]
    table = Table(
        title=f"{record['method']} on {record['stream']}, seed {record['seed']} (accuracy in percent)",
        **COMPACT,
        caption=f"label space: {config['label_space']}; decision: {config['decision']}; "
        f"backbone {backbone['name']} {backbone['weights_sha256'][:12]}; "
        f"settings: {config.get('settings_from', 'not recorded')}",
    )
    needed = [*map(len, record["order"]), *(len(name) + 2 for name in held_out)]
    if max(map(len, ("zero-shot", *record["order"]))) + sum(max(n, 5) + 2 for n in needed) > width:
        _add_ends(table, record)
        return table
    table.add_column("after", no_wrap=True)
    for name in record["order"]:
        table.add_column(name, justify="right")
    for name in held_out:
        table.add_column(f"({name})", justify="right", style="dim")
    stages, rows = ("zero-shot", *record["order"]), [record["zero_shot"], *record["accuracy"]]
    for stage, row, *unseen in zip(stages, rows, *held_out.values(), strict=True):
        table.add_row(stage, *map(percent, (*row, *unseen)))
    table.add_section()
    return table


def _add_ends(table: Table, record: dict[str, Any]) -> None:
    # For many tasks: of each column its ends, and what was just learned.
    table.add_column("task", overflow="fold")
    for title in ("zero-shot", "just learned", "at the end"):
        table.add_column(title, justify="right")
    rows = record["accuracy"]
    for place, name in enumerate(record["order"]):
        cells = (record["zero_shot"][place], rows[place][place], rows[-1][place])
        table.add_row(name, *map(percent, cells))
    for name, values in record["held_out"].items():
        table.add_row(f"({name})", percent(values[0]), "", percent(values[-1]))
    table.add_section()
    table.caption = f"all rows: accuracy.csv in the run folder; {table.caption}"


def _run_summary(record: dict[str, Any]) -> list[str]:
    known = [value for value in record["zero_shot"] if value is not None]
    mean = percent(sum(known) / len(known)) if known else "–"
    scores = "  ".join(
        f"{SCORE_TITLES[name]} {percent(value) or '–'}" for name, value in record["metrics"].items()
    )
    seconds = record["seconds"]
    spent = f"{seconds['train']:.0f} s training, {seconds['evaluate']:.0f} s testing"
    trained = (
        f"{record['trainable_parameters']:,} of {record['total_parameters']:,} parameters trained"
    )
    return [
        f"zero-shot mean {mean}  {scores}",
        SCORE_DEFINITIONS[record.get("metrics_defined_by", "mtil")],
        f"{trained}; {spent}; {record['peak_memory_mib']:.0f} MiB",
    ]


def print_comparison(table: "pd.DataFrame") -> None:
    """Mean and standard deviation of the scores over runs, one line per method; below, what they cost."""
    from vlcl_toolkit.analysis.comparison import COSTS

    scores = Table(title="scores in percent, mean ± standard deviation over runs", **COMPACT)
    costs = Table(title="cost of a run, mean", **COMPACT)
    for shown, titles in (
        (scores, SCORE_TITLES.values()),
        (costs, ("trained parameters", "seconds training", "seconds testing", "MiB", "runs")),
    ):
        shown.add_column("method", no_wrap=True)
        for title in titles:
            shown.add_column(title, justify="right")
    for method in table.index:
        scores.add_row(str(method), *(_mean_std(table, method, score) for score in SCORE_TITLES))
        costs.add_row(
            str(method),
            *(f"{table.loc[method, (cost, 'mean')]:,.0f}" for cost in COSTS),
            str(table.loc[method, ("runs", "count")]),
        )
    Console().print(scores, costs)


def print_alone(method: str, table: "pd.DataFrame", seeds: int) -> None:
    """Each task learned alone."""
    shown = Table(title=f"{method}, each task learned alone (percent, {seeds} seeds)", **COMPACT)
    for title in ("task", "zero-shot", "validation", "learned"):
        shown.add_column(title, justify="left" if title == "task" else "right")
    for task, row in table.iterrows():
        spread = "" if math.isnan(row["std"]) else f" ± {row['std']:.1f}"
        shown.add_row(
            str(task),
            percent(row["zero_shot"]),
            percent(row["validation"]),
            f"{row['learned']:.1f}{spread}",
        )
    shown.add_section()
    shown.add_row(
        "mean", *(percent(table[name].mean()) for name in ("zero_shot", "validation", "learned"))
    )
    Console().print(shown)


class LiveScores:
    """A line of scores for each run as it ends, above the progress bar, and the time that is left."""

    def __init__(self) -> None:
        self.begun, self.done = monotonic(), 0.0  # what ended, in runs of fine-tuning

    def __call__(self, job: "Job", result: "RunResult", left: "Sequence[Job]") -> None:
        """See `experiments.jobs.OnResult`."""
        names = ("transfer", "average", "last")
        if not self.done:
            titles = "".join(f"{SCORE_TITLES[name]:>10}" for name in names)
            tqdm.write(f"{'method':<22}{'seed':>4}{titles}  order begins with")
        self.done += _cost(job)
        cells = "".join(f"{percent(result.metrics.get(name)):>10}" for name in names)
        rest = f"{len(left)} to go" if left else "all done"
        if left and self.done >= 1:  # what answers at once says nothing about the others
            minutes = (monotonic() - self.begun) / self.done * sum(map(_cost, left)) / 60
            rest += f", {minutes:.0f} min"
        tqdm.write(f"{job.method:<22}{job.seed:>4}{cells}  {job.order[0]:<10} {rest}")


def _cost(job: "Job") -> float:
    from vlcl_toolkit.methods import method_class

    return float(method_class(job.method).relative_cost) or 0.1


def print_search(method: str, setting: str, table: "pd.DataFrame", criterion: str) -> None:
    """Validation accuracy per value, by both criteria where all tasks were tested; the best one is marked.

    Args:
        criterion: "learned" or "average"; see `experiments.compare.search`.
    """
    titles = {"validation": SCORE_TITLES["learned"]}
    if criterion == "average":
        titles |= {name: SCORE_TITLES[name] for name in ("average", "transfer", "last")}
    chosen = "average" if criterion == "average" else "validation"
    best = table[chosen, "mean"].idxmax()
    shown = Table(title=f"{method}: {setting} on validation images (percent)")
    for title in (setting, *titles.values(), "runs"):
        shown.add_column(title, justify="right")
    for value in table.index:
        cells = [_mean_std(table, value, name, 2) for name in titles]
        style = "bold" if value == best else None
        shown.add_row(str(value), *cells, str(table.loc[value, ("runs", "count")]), style=style)
    Console().print(shown)
    Console().print(f"{titles[chosen].rstrip('↑')} prefers {setting} = {best}")
    if criterion == "average":
        other = table["validation", "mean"].idxmax()
        Console().print(f"just learned would have chosen {setting} = {other}")


def print_diverged(diverged: "Diverged") -> None:
    """A line for each run that is not in the table above, and why."""
    for job, error in diverged:
        Console().print(f"not in the table: {job}: {error}", markup=False, soft_wrap=True)


def print_import(imported: "Imported", folder: Path) -> None:
    """One line for all tensors whose names differ in numbers alone and whose shapes are the same."""
    table = Table(title=f"{imported.method} of {imported.source}", **COMPACT)
    for title in ("tensors", "name", "shape", "type"):
        table.add_column(title, justify="right" if title == "tensors" else "left", overflow="fold")
    for (name, shape, dtype), count in _shapes(imported.state).items():
        table.add_row(str(count), name, shape, dtype)
    console = Console()
    console.print(table)
    tasks = "" if imported.tasks is None else f"; tasks learned: {imported.tasks}"
    console.print(f"backbone {imported.backbone} {imported.backbone_sha256[:12]}{tasks}")
    settings = ", ".join(f"{name}={value}" for name, value in imported.settings.items())
    console.print(f"settings: {settings or 'the defaults'}", soft_wrap=True)
    console.print(f"folder: {folder}", soft_wrap=True)


def _shapes(state: "dict[str, Tensor]") -> dict[tuple[str, str, str], int]:
    """How many tensors there are of each name (numbers as `*`), shape and type."""
    counts: dict[tuple[str, str, str], int] = {}
    for name, value in state.items():
        shape = " x ".join(map(str, value.shape)) or "one number"
        key = (re.sub(r"\b\d+\b", "*", name), shape, str(value.dtype).removeprefix("torch."))
        counts[key] = counts.get(key, 0) + 1
    return counts
