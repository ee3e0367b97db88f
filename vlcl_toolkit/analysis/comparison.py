"""Scores of several runs in one frame, and their mean and spread."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.training import metrics as evaluation
from vlcl_toolkit.training.results import RunResult

SCORES = ("transfer", "average", "last", "forgetting", "learned", "validation", "held_out")
COSTS = ("trainable_parameters", "train_seconds", "evaluate_seconds", "peak_memory_mib")


def check_comparable(results: Sequence[RunResult]) -> None:
    """Raises UserError if the runs are of different streams or backbones, whose numbers cannot be compared."""
    for kind, identity in (
        ("streams", [(r.stream, r.config["split_id"]) for r in results]),
        ("backbones", [r.config["backbone"]["weights_sha256"][:12] for r in results]),
    ):
        different = list(dict.fromkeys(map(str, identity)))
        if len(different) > 1:
            raise UserError(
                f"runs of different {kind} cannot be compared; found {', '.join(different)}; compare them separately"
            )


def score_table(results: Sequence[RunResult], setting: str | None = None) -> pd.DataFrame:
    """One row per run.

    Columns (accuracies in percent):
        method, seed, order: which run. ``setting``: the value of that setting, if one is named.
        transfer, average, last, forgetting: see evaluation.py.
        learned: mean test accuracy of the tasks, each right after it was learned.
        validation: the same on validation images; the quantity to choose settings by.
        held_out: mean accuracy on the held-out tasks after the last task.
        trainable_parameters: numbers trained in one task; train_seconds, evaluate_seconds; peak_memory_mib.

    Raises UserError if the runs are of different streams or backbones, whose numbers cannot be compared.
    """
    check_comparable(results)
    rows = []
    for result in results:
        matrix = result.accuracy.to_numpy()
        row = {"method": result.method, "seed": result.seed, "order": ",".join(result.order)}
        if setting is not None:
            row[setting] = result.config["method_config"][setting]
        row |= result.metrics
        row |= {
            "learned": float(np.diag(matrix[1:]).mean()),
            "validation": float(result.validation.mean()),
            "held_out": float(result.held_out.iloc[-1].mean())
            if result.held_out.size
            else float("nan"),
            "trainable_parameters": result.trainable_parameters,
            "train_seconds": result.seconds["train"],
            "evaluate_seconds": result.seconds["evaluate"],
            "peak_memory_mib": result.peak_memory_mib,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def gains(result: RunResult) -> dict[str, float]:
    """What a run gained (above 0) or lost against the frozen CLIP in the same order, in points.

    Keys: "transfer", what became of abilities not yet trained; "last", of all tasks in the end.
    """
    scores = evaluation.metrics(result.accuracy.to_numpy()[1:])
    frozen = evaluation.metrics(result.accuracy.to_numpy()[:1].repeat(len(result.order), axis=0))
    return {name: scores[name] - frozen[name] for name in ("transfer", "last")}


def mean_and_spread(scores: pd.DataFrame, by: str = "method") -> pd.DataFrame:
    """Mean and standard deviation (n - 1) of every score over the runs of each group, in order of appearance.

    Columns: (score or cost, "mean" | "std"), and ("runs", "count"). One run alone has a spread of nan.
    """
    groups = scores.groupby(by, sort=False)
    table = groups[[*SCORES, *COSTS]].agg(["mean", "std"])
    table["runs", "count"] = groups.size()
    return table


def alone_table(results: Sequence[RunResult]) -> pd.DataFrame:
    """For each task learned on its own, percent: zero-shot accuracy; mean and spread of the accuracy after learning."""
    rows = [
        {
            "task": r.order[0],
            "zero_shot": r.accuracy.iloc[0, 0],
            "learned": r.accuracy.iloc[1, 0],
            "validation": r.validation.iloc[0],
        }
        for r in results
    ]
    groups = pd.DataFrame(rows).groupby("task", sort=False)
    return groups.agg(
        zero_shot=("zero_shot", "mean"),
        validation=("validation", "mean"),
        learned=("learned", "mean"),
        std=("learned", "std"),
    )


def frozen_scores(zero_shot: pd.Series) -> dict[str, float]:
    """The four scores of a backbone that learns nothing, from its accuracies in task order."""
    row = zero_shot.to_numpy(float)
    return evaluation.metrics(row[None].repeat(len(row), axis=0))
