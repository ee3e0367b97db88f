"""A run as one small JSON object: what the player shows, without the toolkit, the images or a kernel.

The format has a version (`VERSION`) and is documented in docs/player.md. What a run does not have, or
what cannot be read, is left out and named in the record's "missing".
"""

import base64
import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from vlcl_toolkit.analysis.decisions import calibration, route_decisions
from vlcl_toolkit.analysis.feature_maps import feature_map
from vlcl_toolkit.analysis.routing import expert_use
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.probes import Probes
from vlcl_toolkit.probes.config import probe_images
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.training.metrics import metrics
from vlcl_toolkit.training.results import RunResult

VERSION = 1
THUMBNAIL = 40  # pixels
MOST_POINTS = 1000  # images on the map


def run_record(
    result: RunResult, stream: TaskStream | None = None, *, points: int = MOST_POINTS
) -> dict[str, Any]:
    """What a player needs of a run: lists, numbers and texts alone, so that `json.dumps` takes it.

    Args:
        result: finished or interrupted, with probes or without.
        stream: of the run, for small pictures of the images on the map; None: no pictures.
        points: at most so many images on the map, spread evenly over the domains.

    Returns:
        see docs/player.md. Numbers that do not exist are None.
    """
    accuracy = result.accuracy.to_numpy(float)
    stages = int(result.accuracy.notna().any(axis=1).sum())
    record: dict[str, Any] = {
        "format": "vlcl-record",
        "version": VERSION,
        "method": result.method,
        "stream": result.stream,
        "split_id": result.config["split_id"],
        "seed": result.seed,
        "label_space": result.config.get("label_space", "task"),
        "order": list(result.order),
        "held_out": list(result.held_out.columns),
        "stages": stages,
        "accuracy": _numbers(accuracy),
        "held_out_accuracy": _numbers(result.held_out.to_numpy(float)),
        "scores": [scores_so_far(accuracy[1:], stage) for stage in range(stages)],
        "missing": [],
    }
    if not result.complete:
        record["missing"].append(
            f"the run is not finished: {stages - 1} of {len(result.order)} tasks are learned"
        )
    try:
        probes = result.probes
    except UserError as error:
        record["missing"].append(f"a look inside: {error}")
        return record
    per_domain = max(1, points // len(probes.domains))
    record["map"] = _map(probes, per_domain)
    record["classes"] = {domain: probes.class_names(domain) for domain in probes.domains}
    _add(record, "drift", lambda: _drift(probes))
    # What a method does not have is not missing.
    for name, array, of_stage in (
        ("routes", "routes", _routes),
        ("experts", "choices", _experts),
        ("weights", "route_strength", _weights),
    ):
        if probes.has(array) and stages > 1:
            _add(record, name, functools.partial(_by_stage, probes, of_stage))
    if stream is None:
        record["missing"].append("pictures: the images of the stream are not at hand")
    else:
        _add(record, "pictures", lambda: _pictures(probes, stream, per_domain))
    return record


def scores_so_far(matrix: np.ndarray, stage: int) -> dict[str, float | None]:
    """The four scores as far as they can be known after `stage` tasks, percent.

    Args:
        matrix: `[T, T]`, accuracy on each task after each; rows from `stage` on are not looked at.
        stage: tasks learned, 0 .. T; with all of them these are the scores of the run.

    Returns:
        transfer (over cells of tasks that were not learned yet), average (all rows so far), last
        (the newest row), forgetting (over the tasks learned before the newest); None without a cell.
    """
    known = matrix[:stage]
    if not stage:
        return dict.fromkeys(("transfer", "average", "last", "forgetting"))
    before = [known[:task, task].mean() for task in range(1, len(matrix))]
    return {
        "transfer": _number(np.mean(before)) if before else None,
        "average": _number(known.mean()),
        "last": _number(known[-1].mean()),
        "forgetting": _number(metrics(known[:, :stage])["forgetting"]),
    }


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    # A third of the size of a list of objects.
    return {
        str(name): _numbers(values.to_numpy()) if values.dtype.kind == "f" else values.tolist()
        for name, values in frame.items()
    }


def _by_stage(probes: Probes, of_stage: Callable[[Probes, int], pd.DataFrame]) -> dict[str, Any]:
    frames = [of_stage(probes, stage).assign(stage=stage) for stage in probes.stages[1:]]
    return _columns(pd.concat(frames))


def _drift(probes: Probes) -> dict[str, Any]:
    drift = probes.drift()
    pooled = drift[(drift["position"] == "class") & (drift["stage"] > 0)]
    return _columns(pooled[["stage", "domain", "tower", "block", "relative_norm"]])


def _routes(probes: Probes, stage: int) -> pd.DataFrame:
    return route_decisions(probes, stage=stage)[["domain", "route", "share"]]


def _experts(probes: Probes, stage: int) -> pd.DataFrame:
    return expert_use(probes, stage=stage)[["domain", "block", "expert", "share"]]


def _weights(probes: Probes, stage: int) -> pd.DataFrame:
    strengths = calibration(probes, stage=stage).groupby("domain", sort=False)["strength"]
    return (
        strengths.quantile([0.1, 0.5, 0.9])
        .unstack()
        .set_axis(["low", "median", "high"], axis=1)
        .reset_index()
    )


def _map(probes: Probes, per_domain: int) -> dict[str, Any]:
    frame = feature_map(probes)
    kept = frame[(frame["kind"] == "class") | (frame["item"] < per_domain)]
    stages = [kept[kept["stage"] == stage] for stage in probes.stages]
    first = stages[0]
    predicted = {
        domain: [probes.logits(stage, domain).argmax(1) for stage in probes.stages]
        for domain in probes.domains
    }
    points: dict[str, Any] = {
        name: first[name].tolist() for name in ("domain", "kind", "item", "label")
    }
    points["xy"] = [
        [[round(float(x), 3), round(float(y), 3)] for x, y in zip(at["x"], at["y"], strict=True)]
        for at in stages
    ]
    points["predicted"] = {
        domain: [labels[:per_domain].tolist() for labels in said]
        for domain, said in predicted.items()
    }
    return points


def _pictures(probes: Probes, stream: TaskStream, per_domain: int) -> dict[str, Any]:
    """Of each domain one sheet of small pictures, ten in a row, as a JPEG data address."""
    tasks = {task.name: task for task in (*stream, *stream.held_out)}
    sheets = {}
    for domain in probes.domains:
        labels = probes.labels(domain)
        if domain not in tasks:
            raise UserError(f"the stream has no task {domain!r}; give the stream of the run")
        data = probe_images(tasks[domain], len(labels))
        if data.labels.tolist() != labels.tolist():
            raise UserError(f"images of {domain} are not those of the run")
        count = min(per_domain, len(labels))
        sheet = Image.new("RGB", (10 * THUMBNAIL, -(-count // 10) * THUMBNAIL))
        for index in range(count):
            picture = data.picture(index).convert("RGB").resize((THUMBNAIL, THUMBNAIL))
            sheet.paste(picture, (index % 10 * THUMBNAIL, index // 10 * THUMBNAIL))
        content = io.BytesIO()
        sheet.save(content, "JPEG", quality=80)
        code = base64.b64encode(content.getvalue()).decode()
        sheets[domain] = f"data:image/jpeg;base64,{code}"
    return {"size": THUMBNAIL, "columns": 10, "sheets": sheets}


def _add(record: dict[str, Any], name: str, make: Callable[[], Any]) -> None:
    try:
        record[name] = make()
    except UserError as error:
        record["missing"].append(f"{name}: {error}")


def _numbers(values: np.ndarray) -> Any:
    """Nested lists, None for what is not known; two digits after the point are what is shown."""
    if values.ndim > 1:
        return [_numbers(row) for row in values]
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    return round(float(value), 3) if np.isfinite(value) else None
