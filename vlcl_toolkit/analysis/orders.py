"""What depends on the order of the tasks: the spread of the scores, and which domains hurt each other."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd

from vlcl_toolkit.analysis.comparison import check_comparable, frozen_scores
from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.training.results import RunResult

Score = Literal["transfer", "average", "last", "forgetting"]
When = Literal["not yet learned", "learned before", "held-out"]


def order_scores(results: Sequence[RunResult]) -> pd.DataFrame:
    """The scores of runs that learned the same tasks, in several orders and with several seeds.

    Columns: method, order (task names, comma-separated), seed, complete, tasks_learned; transfer,
    average, last, forgetting (percent, see evaluation.py; nan as long as a test that the score needs
    is missing: Transfer is known before the last task is learned); transfer_change (points: Transfer
    minus that of the frozen CLIP in the same order, since Transfer leaves out the task that comes
    first, and so depends on the order even if nothing changes).

    Raises:
        UserError: no run; different streams, backbones, sets of tasks, or settings of one method.
    """
    _check(results)
    tasks = {",".join(sorted(result.order)) for result in results}
    if len(tasks) > 1:
        raise UserError(
            "runs of different sets of tasks have scores that mean different things; "
            f"found {' | '.join(sorted(tasks))}; analyse each set separately"
        )
    rows = []
    for result in results:
        row = {
            "method": result.method,
            "order": ",".join(result.order),
            "seed": result.seed,
            "complete": result.complete,
            "tasks_learned": _tasks_learned(result),
        }
        values = {score: result.metrics[score] for score in get_args(Score)}
        frozen = frozen_scores(result.accuracy.iloc[0])["transfer"]
        rows.append(row | values | {"transfer_change": values["transfer"] - frozen})
    return pd.DataFrame(rows)


def order_spread(scores: pd.DataFrame) -> pd.DataFrame:
    """How much each score of each method varies with the order of the tasks, and with the seed.

    Args:
        scores: of `order_scores`. Scores that an interrupted run does not have are left out.

    Columns: method, score; runs, orders (how many); mean, lowest, highest (percent); range
    (points); over_orders (standard deviation of the orders' means over their seeds; the seeds' noise
    is still in it), over_seeds (standard deviation within an order, pooled over the orders; points).
    What one order or one seed cannot tell is nan.
    """
    rows = []
    for method, runs in scores.groupby("method", sort=False):
        for score in get_args(Score):
            known = runs.dropna(subset=score)
            values, orders = known[score], known.groupby("order")[score]
            rows.append(
                {
                    "method": method,
                    "score": score,
                    "runs": len(known),
                    "orders": orders.ngroups,
                    "mean": values.mean(),
                    "lowest": values.min(),
                    "highest": values.max(),
                    "range": values.max() - values.min(),
                    "over_orders": orders.mean().std(),
                    "over_seeds": _within(orders.var(), orders.size()),
                }
            )
    return pd.DataFrame(rows)


def pair_changes(results: Sequence[RunResult]) -> pd.DataFrame:
    """What learning one domain did to another, each time that it was learned.

    The change of B's accuracy from just before A was learned to just after. A run of T tasks gives
    T (T - 1) of them, an interrupted run those of the tasks that it has learned.

    Columns: method, order, seed, stage (A was the k-th task), learned (A), affected (B), when
    ("not yet learned": a loss of zero-shot ability; "learned before": forgetting; "held-out": never
    learned), change (points; below 0: A hurt B).

    Raises:
        UserError: no run; different streams, backbones, or settings of one method.
    """
    _check(results)
    rows = []
    for result in results:
        run = {"method": result.method, "order": ",".join(result.order), "seed": result.seed}
        for when, table in (("", result.accuracy), ("held-out", result.held_out)):
            for column, affected in enumerate(table.columns):
                changes = np.diff(table[affected].to_numpy())
                for task, change in enumerate(changes):
                    if (when or column != task) and np.isfinite(change):
                        relation = "not yet learned" if column > task else "learned before"
                        pair = {"learned": result.order[task], "affected": affected}
                        what = {"when": when or relation, "change": float(change)}
                        rows.append(run | {"stage": task + 1} | pair | what)
    columns = ["method", "order", "seed", "stage", "learned", "affected", "when", "change"]
    return pd.DataFrame(rows, columns=columns)


def pair_effects(changes: pd.DataFrame) -> pd.DataFrame:
    """Mean effect of learning A on B, over orders and seeds.

    Args:
        changes: of `pair_changes`.

    Columns: method, learned (A), affected (B), when; change (mean, points; below 0: A hurts B), std
    (n - 1; nan for one case), cases. The mean is over whatever came before A: with few orders it is
    also about A's place.
    """
    keys = ["method", "learned", "affected", "when"]
    groups = changes.groupby(keys, sort=False)["change"]
    return groups.agg(change="mean", std="std", cases="size").reset_index()


def pair_matrix(effects: pd.DataFrame, when: str, method: str | None = None) -> pd.DataFrame:
    """Mean change in points as a table: rows A, the domain learned; columns B, the one affected.

    Args:
        effects: of `pair_effects`.
        when: state of B while A is learned: "not yet learned", "learned before" or "held-out".
        method: may be left out when there is only one.

    Returns:
        nan where no run had that case, as on the diagonal.

    Raises:
        UserError: an unknown `when` or method; several methods and none chosen.
    """
    if when not in get_args(When):
        raise unknown_name("state of the affected domain", when, get_args(When))
    methods = list(dict.fromkeys(effects["method"]))
    if method is None and len(methods) > 1:
        raise UserError(f"effects of {len(methods)} methods; choose one of {', '.join(methods)}")
    if method is not None and method not in methods:
        raise unknown_name("method among these runs", method, methods)
    kept = effects if method is None else effects[effects["method"] == method]
    learned = sorted(dict.fromkeys(kept["learned"]))
    held_out = sorted(dict.fromkeys(kept.loc[kept["when"] == "held-out", "affected"]))
    columns = held_out if when == "held-out" else learned
    kept = kept[kept["when"] == when]
    table = kept.pivot(index="learned", columns="affected", values="change")
    return table.reindex(index=learned, columns=columns)


def _tasks_learned(result: RunResult) -> int:
    return int(np.isfinite(result.accuracy.to_numpy()[1:]).any(axis=1).sum())


def _within(variances: pd.Series, sizes: pd.Series) -> float:
    freedom = sizes - 1
    if not freedom.sum():
        return float("nan")
    return float(np.sqrt((variances.fillna(0) * freedom).sum() / freedom.sum()))


def _check(results: Sequence[RunResult]) -> None:
    if not results:
        raise UserError("no runs given; pass at least one result")
    check_comparable(results)
    settings: dict[str, dict] = {}
    for result in results:
        first = settings.setdefault(result.method, result.config["method_config"])
        other = result.config["method_config"]
        for name in first.keys() | other.keys():
            if first.get(name) != other.get(name):
                raise UserError(
                    f"runs of {result.method} cannot be pooled when their settings differ; found {name} "
                    f"{first.get(name)} and {other.get(name)}; analyse each separately"
                )
