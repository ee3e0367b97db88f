"""What a run leaves on disk, and how it is read back. All analysis starts from a `RunResult`."""

import json
import math
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.files import check_files, read_bytes, read_run, read_sealed, write_atomic
from vlcl_toolkit.probes.files import stage_path
from vlcl_toolkit.probes.reader import Probes
from vlcl_toolkit.training.metrics import scores

if TYPE_CHECKING:
    import pandas as pd  # imported where a table is made: a run starts without it


@dataclass(frozen=True, eq=False)
class RunResult:
    """A finished or interrupted run. All accuracies are percent; what is not known yet is nan.

    Attributes:
        folder: where it lies.
        config: content of config.json.
        method, stream: names. `order`: task names as learned. `seed`: of the run.
        accuracy: `[T+1, T]`, row "zero-shot" is the frozen CLIP, then "after <task>".
        held_out: `[T+1, H]`, the same rows for the tasks that are never learned.
        validation: `[T]`, accuracy on a task's validation images right after learning it.
        metrics: "transfer", "average", "last", "forgetting"; see `training.metrics.scores`.
        history: one line per step: task, step, learning_rate, loss and its terms.
        trainable_parameters: largest number trained in one task. `total_parameters`: all.
        seconds: "train", "evaluate". `peak_memory_mib`: of the process (CPU) or the GPU while it ran.
        complete: False for an interrupted run; the same `run` call goes on with it.
    """

    folder: Path
    config: dict[str, Any]
    method: str
    stream: str
    order: list[str]
    seed: int
    accuracy: "pd.DataFrame"
    held_out: "pd.DataFrame"
    validation: "pd.Series"
    metrics: dict[str, float]
    history: "pd.DataFrame"
    trainable_parameters: int
    total_parameters: int
    seconds: dict[str, float]
    peak_memory_mib: float
    complete: bool

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {value:.1f}" for name, value in self.metrics.items())
        state = "" if self.complete else ", incomplete"
        return f"RunResult({self.method} on {self.stream}: {scores}{state}; {self.folder})"

    @cached_property
    def probes(self) -> Probes:
        """What the run recorded about the network after every task, read when first needed.

        Raises:
            UserError: the run was made without probes, or a file of theirs is missing or damaged.
        """
        files = read_sealed(self.folder / "result.json").get("files", {})
        check_files(self.folder, files, "probes/")
        probes = Probes.load(self.folder, self.config)
        measured = int(self.accuracy.notna().any(axis=1).sum())
        for stage in set(range(measured)) - set(probes.stages):
            path = stage_path(self.folder, stage)
            raise UserError(f"{path} is missing; restore it, or record again in another folder")
        return probes

    @staticmethod
    def finished_at(folder: str | Path) -> datetime:
        """When the last result was written into a run's folder; local time."""
        return datetime.fromtimestamp((Path(folder) / "result.json").stat().st_mtime)

    @classmethod
    def load(cls, folder: str | Path) -> "RunResult":
        """Read a run's folder.

        Raises:
            UserError: no such folder, a missing or damaged file.
        """
        folder = Path(folder)
        config, record = read_run(folder)
        try:
            return cls._from_record(folder, config, record)
        except (KeyError, TypeError, ValueError) as error:
            path = folder / "result.json"
            raise UserError(f"{path} is not a run's result ({error!r}); run it again") from error

    @classmethod
    def _from_record(
        cls, folder: Path, config: dict[str, Any], record: dict[str, Any]
    ) -> "RunResult":
        import pandas as pd

        order = record["order"]
        rows = row_names(order)
        cells = [record["zero_shot"], *record["accuracy"]]
        return cls(
            folder=folder,
            config=config,
            method=record["method"],
            stream=record["stream"],
            order=order,
            seed=record["seed"],
            accuracy=pd.DataFrame(cells, index=rows, columns=order, dtype=float),
            held_out=pd.DataFrame(record["held_out"], index=rows, dtype=float),
            validation=pd.Series(record["validation"], index=order, dtype=float),
            metrics={name: _number(value) for name, value in record["metrics"].items()},
            history=read_history(folder / "history.jsonl"),
            trainable_parameters=record["trainable_parameters"],
            total_parameters=record["total_parameters"],
            seconds=record["seconds"],
            peak_memory_mib=record["peak_memory_mib"],
            complete=record["complete"],
        )


def row_names(order: list[str]) -> list[str]:
    """Names of the T+1 rows of an accuracy table."""
    return ["zero-shot", *(f"after {name}" for name in order)]


def accuracy_record(
    order: list[str],
    held_out: list[str],
    rows: list[dict[str, float]],
    validation: list[float],
    sizes: list[int],
    label_space: str,
) -> dict[str, Any]:
    """The accuracy part of result.json; null stands for what is not known.

    Args:
        rows: accuracies by task name, zero-shot first; rows or names may still be missing.
        validation: per task, right after learning it.
        sizes: test images per task. `label_space`: among which classes they were classified.
    """
    missing = len(order) + 1 - len(rows)
    full = [*rows, *({} for _ in range(missing))]
    table = [[row.get(name, math.nan) for name in order] for row in full]
    found, defined = scores(np.array(table[1:], dtype=float), sizes, label_space)
    record = {
        "zero_shot": table[0],
        "accuracy": table[1:],
        "metrics": found,
        "metrics_defined_by": defined,
        "held_out": {name: [row.get(name, math.nan) for row in full] for name in held_out},
        "validation": validation,
    }
    return _null_for_nan(record)


def accuracy_csv(order: list[str], rows: list[dict[str, float]]) -> str:
    """The accuracy table for people: a row per step, percent with four decimals."""
    import pandas as pd

    names = row_names(order)[: len(rows)]
    table = pd.DataFrame(rows, index=pd.Index(names, name="step"), columns=order, dtype=float)
    return table.to_csv(float_format="%.4f", lineterminator="\n")


def repair_table(folder: Path) -> bool:
    """Write accuracy.csv of a finished run again if it is lost or damaged; whether that was so."""
    record = read_sealed(folder / "result.json")
    try:
        check_files(folder, record.get("files", {}), "accuracy.csv")
    except UserError:
        cells = [record["zero_shot"], *record["accuracy"]]
        values = [[_number(value) for value in row] for row in cells]
        rows = [dict(zip(record["order"], row, strict=True)) for row in values]
        write_atomic(folder / "accuracy.csv", accuracy_csv(record["order"], rows).encode())
        return True
    return False


def read_history(path: Path) -> "pd.DataFrame":
    """Read history.jsonl.

    Raises:
        UserError: the file is missing or a line is not JSON.
    """
    import pandas as pd

    if not path.is_file():
        raise UserError(f"no run in {path.parent}: {path.name} is missing; check the path")
    try:
        records = [json.loads(line) for line in read_bytes(path).decode().splitlines()]
        for number, record in enumerate(records, start=1):
            if not isinstance(record, dict) or not record.keys() >= set(HISTORY_COLUMNS):
                raise ValueError(f"line {number} is no step of a run")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it or run again") from error
    return pd.DataFrame(records or None, columns=None if records else list(HISTORY_COLUMNS))


HISTORY_COLUMNS = ("task", "step", "learning_rate", "loss")


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _null_for_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _null_for_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_null_for_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
