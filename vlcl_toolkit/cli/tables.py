"""Tables in the shell."""

import math
from typing import Any

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from vlcl_toolkit.analysis.comparison import COSTS
from vlcl_toolkit.training.results import RunResult

COMPACT: dict[str, Any] = {
    "box": SIMPLE,
    "collapse_padding": True,
    "pad_edge": False,
}  # fits 80 columns
SCORE_TITLES = {
    "transfer": "Transfer↑",
    "average": "Average↑",
    "last": "Last↑",
    "forgetting": "Forgetting↓",
    "learned": "just learned↑",
    "held_out": "held out↑",
}


def percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


def _mean_std(table: pd.DataFrame, row: Any, column: str, digits: int = 1) -> str:
    mean, std = table.loc[row, (column, "mean")], table.loc[row, (column, "std")]
    if math.isnan(mean):
        return ""
    return f"{mean:.{digits}f}" + ("" if math.isnan(std) else f"±{std:.{digits}f}")


def print_run(result: RunResult) -> None:
    """The accuracy matrix and the scores of one run."""
    backbone = result.config["backbone"]
    title = f"{result.method} on {result.stream}, seed {result.seed} (accuracy in percent)"
    table = Table(
        title=title,
        **COMPACT,
        caption=f"label space: {result.config['label_space']}; decision: {result.config['decision']}; "
        f"backbone {backbone['name']} {backbone['weights_sha256'][:12]}",
    )
    table.add_column("after", no_wrap=True)
    for name in result.accuracy:
        table.add_column(name, justify="right")
    for name in result.held_out:
        table.add_column(f"({name})", justify="right", style="dim")
    full = result.accuracy.join(result.held_out)
    for step, values in full.iterrows():
        table.add_row(str(step).removeprefix("after "), *(percent(value) for value in values))
    table.add_section()
    mean = result.accuracy.iloc[0].mean()
    console = Console()
    console.print(table)
    scores = "  ".join(
        f"{SCORE_TITLES[name]} {percent(value) or '–'}" for name, value in result.metrics.items()
    )
    console.print(f"zero-shot mean {mean:.1f}  {scores}")
    spent = f"{result.seconds['train']:.0f} s training, {result.seconds['evaluate']:.0f} s testing"
    trained = f"{result.trainable_parameters:,} of {result.total_parameters:,} parameters trained"
    console.print(f"{trained}; {spent}; {result.peak_memory_mib:.0f} MiB")
    console.print(f"run folder: {result.folder}", soft_wrap=True)
    if not result.complete:
        console.print("[yellow]interrupted: the same run goes on where it stopped[/yellow]")


def print_comparison(table: pd.DataFrame) -> None:
    """Mean and standard deviation of the scores over runs, one line per method; below, what they cost."""
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


def print_alone(method: str, table: pd.DataFrame, seeds: int) -> None:
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


def print_search(method: str, setting: str, table: pd.DataFrame) -> None:
    """Validation accuracy per value; the best one is marked."""
    best = table["validation", "mean"].idxmax()
    shown = Table(
        title=f"{method}: {setting} by validation accuracy of the task just learned (percent)"
    )
    for title in (setting, "validation ↑", "runs"):
        shown.add_column(title, justify="right")
    for value in table.index:
        style = "bold" if value == best else None
        shown.add_row(
            str(value),
            _mean_std(table, value, "validation", 2),
            str(table.loc[value, ("runs", "count")]),
            style=style,
        )
    Console().print(shown)
    Console().print(f"validation prefers {setting} = {best}")
