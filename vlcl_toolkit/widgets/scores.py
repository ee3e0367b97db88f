"""The scores of runs as a small HTML table."""

from collections.abc import Mapping, Sequence

import pandas as pd

from vlcl_toolkit.evaluation import metrics
from vlcl_toolkit.plotting.style import method_colour

COLUMNS = ("transfer", "average", "last", "forgetting")
_HINT = "percent; higher is better, except for Forgetting"


def frozen_scores(zero_shot: pd.Series) -> dict[str, float]:
    """The four scores of a backbone that learns nothing, from its accuracies in task order."""
    row = zero_shot.to_numpy(float)
    return metrics(row[None].repeat(len(row), axis=0))


def scores_html(
    lines: Sequence[tuple[str, str, Mapping[str, float], bool]], heading: str = "Order"
) -> str:
    """A line per run, numbered as in the picture of all runs; the frozen backbone comes first.

    Args:
        lines: method, what tells its runs apart (HTML), scores in percent, and whether it is the
            run shown on the page.
        heading: of what tells runs apart.
    """
    head = "".join(f"<th style='padding:0 .6em'>{name.capitalize()}</th>" for name in COLUMNS)
    body = "".join(_line(number, *line) for number, line in enumerate(lines))
    last = f"<th style='text-align:left;padding-left:.6em'>{heading}</th>"
    table = f"<tr><td></td><th style='text-align:left'>Method</th>{head}{last}</tr>{body}"
    return f"<table style='line-height:1.6'>{table}</table><small>{_HINT}</small>"


def _line(
    number: int, method: str, description: str, scores: Mapping[str, float], shown: bool
) -> str:
    cell = "<td style='text-align:right;padding:0 .6em'>{}</td>"
    cells = "".join(cell.format(_percent(scores[name])) for name in COLUMNS)
    name = f"<span style='color:{method_colour(method)}'>■</span> {method}"
    weight = "bold" if shown else "normal"
    last = f"<td style='padding-left:.6em;font-weight:normal'>{description}</td>"
    first = f"<td>{number or ''}</td><td>{name}</td>"
    return f"<tr style='font-weight:{weight}'>{first}{cells}{last}</tr>"


def _percent(value: float) -> str:
    return "–" if value != value else f"{value:.1f}"  # nan: a single task has no Transfer
