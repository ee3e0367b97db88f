"""What continual learning loses: tasks that were learned, and abilities that were never trained."""

import numpy as np
import pandas as pd

from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.training.results import RunResult


def chance(stream: TaskStream) -> pd.Series:
    """Chance accuracy of each task of a stream, percent: 100 / number of classes."""
    return pd.Series({task.name: 100 / len(task.class_names) for task in stream}, name="chance")


def forgotten_tasks(result: RunResult) -> pd.DataFrame:
    """Accuracy of each task right after it was learned, and after the last task.

    Returns:
        percent; rows: tasks in the order learned. The last task cannot lose anything.
    """
    matrix = result.accuracy.to_numpy()[1:]
    columns = {"right after learning": np.diag(matrix), "after the last task": matrix[-1]}
    return pd.DataFrame(columns, index=result.accuracy.columns)


def forgotten_zero_shot(result: RunResult) -> pd.DataFrame:
    """Accuracy without training: of the frozen CLIP, and in the last test before training.

    A task of the stream is tested just before it is learned, a held-out one after the last task.

    Returns:
        percent; rows: tasks in the order learned (the first has lost nothing), then held-out ones.
    """
    table = result.accuracy.to_numpy()
    columns = {"the frozen CLIP": table[0], "the last test before learning": np.diag(table)}
    tasks = pd.DataFrame(columns, index=result.accuracy.columns)
    held_out = result.held_out.iloc[[0, -1]].T.set_axis(list(columns), axis=1)
    return pd.concat([tasks, held_out])


def unseen_accuracy(result: RunResult) -> pd.DataFrame:
    """Accuracy of each domain that the method has never trained on, after each task.

    Tasks of the stream appear until just before they are learned, held-out ones to the end; stages
    that an interrupted run has not reached are left out.

    Columns: stage (0 = the frozen CLIP), after (a task or "zero-shot"), domain, status ("unseen",
    "held-out"), accuracy (percent), change (points against the frozen CLIP).
    """
    after = ["zero-shot", *result.order]
    rows = []
    for status, table in (("unseen", result.accuracy), ("held-out", result.held_out)):
        for column, domain in enumerate(table.columns):
            values = table[domain].to_numpy()
            stages = column + 1 if status == "unseen" else len(values)
            for stage, value in enumerate(values[:stages]):
                if np.isfinite(value):
                    place = {
                        "stage": stage,
                        "after": after[stage],
                        "domain": domain,
                        "status": status,
                    }
                    rows.append(place | {"accuracy": value, "change": value - values[0]})
    columns = ["stage", "after", "domain", "status", "accuracy", "change"]
    return pd.DataFrame(rows, columns=columns)
