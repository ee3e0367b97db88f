"""Published results beside a run's own, and what keeps the two from being comparable."""

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from vlcl_toolkit.clip.random_weights import PREFIX
from vlcl_toolkit.errors import unknown_name
from vlcl_toolkit.experiments.published_results import (
    SCORES,
    Published,
    published_for,
    published_results,
)
from vlcl_toolkit.experiments.published_runs import Recipe, recipes, training_images, training_steps
from vlcl_toolkit.streams.label_space import LABEL_SPACES
from vlcl_toolkit.training.metrics import class_incremental_scores, metric_vectors
from vlcl_toolkit.training.results import RunResult


def published_scores(protocol: str) -> pd.DataFrame:
    """Published scores of all methods under a protocol, one row each.

    Columns: method, transfer, average, last (percent), verified, split, gpu_hours (nan: unknown),
    source.

    Raises:
        UserError: nothing is published under that name.
    """
    entries = [entry for entry in published_results() if entry.protocol == protocol]
    if not entries:
        raise unknown_name("protocol", protocol, {entry.protocol for entry in published_results()})
    rows = [
        {"method": entry.method}
        | entry.scores
        | {"verified": entry.verified, "split": entry.split}
        | {"gpu_hours": entry.cost.get("gpu_hours", math.nan), "source": entry.source}
        for entry in entries
    ]
    return pd.DataFrame(rows)


def cost_table(protocol: str) -> pd.DataFrame:
    """What the runs of a protocol cost: derived from the settings, and quoted where it was published.

    Columns: recipe, steps (optimisation steps; nan: sizes not published), images_per_step (without
    reference images), gpu_hours, peak_gpu_gb (quoted, nan: unknown; hardware not stated).
    """
    rows = []
    for name, recipe in recipes().items():
        if recipe.protocol == protocol:
            config, steps = recipe.config(), training_steps(recipe)
            quoted = [e.cost for e in published_for(protocol, recipe.variant) if e.cost]
            cost = quoted[0] if quoted else {}
            rows.append(
                {
                    "recipe": name,
                    "steps": math.nan if steps is None else steps,
                    "images_per_step": getattr(config, "batch_size", 0),
                    "gpu_hours": cost.get("gpu_hours", math.nan),
                    "peak_gpu_gb": cost.get("peak_gpu_gb", math.nan),
                }
            )
    if not rows:
        raise unknown_name("protocol", protocol, {recipe.protocol for recipe in recipes().values()})
    return pd.DataFrame(rows)


def own_scores(result: RunResult) -> dict[str, float]:
    """Scores of a run as its protocol defines them: "average" and "last" over the stages if label space is "seen"."""
    if result.config["label_space"] == "task":
        return {name: result.metrics[name] for name in SCORES}
    known = _stages(result)
    return {"transfer": math.nan, "average": known["average"], "last": known["last"]}


def _stages(result: RunResult) -> dict[str, Any]:
    sizes = [result.config["images"][name][2] for name in result.order]
    return class_incremental_scores(result.accuracy.to_numpy()[1:], sizes)


def beside_published(result: RunResult, entry: Published) -> pd.DataFrame:
    """A run beside a published result, percent.

    Columns: (score, "ours"), (score, "published"). Rows: the data sets, where a matrix is published
    for the order of the run, and "mean"; class-incremental: the stages, where they are published,
    and "mean" (their last is the score "last").
    """
    ours, theirs = own_scores(result), entry.scores
    rows: dict[str, dict[tuple[str, str], float]] = {}
    if entry.matrix is not None and entry.order == result.order:
        own = _by_task(result.accuracy.to_numpy()[1:], result.order)
        known = _by_task(np.array(entry.matrix), result.order)
        for name in result.order:
            rows[name] = {(s, "ours"): own[s].get(name, math.nan) for s in SCORES}
            rows[name] |= {(s, "published"): known[s].get(name, math.nan) for s in SCORES}
    elif (
        entry.zero_shot is not None
        and list(entry.zero_shot)
        and set(entry.zero_shot) == set(result.order)
    ):
        for name in result.order:
            rows[name] = {("last", "ours"): float(result.accuracy[name].iloc[-1])}
            rows[name][("last", "published")] = entry.zero_shot[name]
    elif entry.stages is not None and len(entry.stages) == len(result.order):
        measured = _stages(result)["accuracies"]
        for name, mine, published in zip(result.order, measured, entry.stages, strict=True):
            rows[name] = {("accuracy", "ours"): mine, ("accuracy", "published"): published}
    rows["mean"] = {(s, "ours"): ours[s] for s in SCORES}
    rows["mean"] |= {(s, "published"): theirs[s] for s in SCORES}
    if entry.label_space == "seen":
        rows["mean"] = {k: v for k, v in rows["mean"].items() if k[0] != "transfer"}
    table = pd.DataFrame(rows).T
    order = [("accuracy", *SCORES).index(score) * 2 + (who != "ours") for score, who in table]
    return table.iloc[:, np.argsort(order)]


def _by_task(matrix: np.ndarray, names: list[str]) -> dict[str, dict[str, float]]:
    vectors = metric_vectors(matrix)
    ends = {name: vectors[name].tolist() for name in SCORES}
    return {
        score: dict(zip(names[len(names) - len(values) :], values, strict=True))
        for score, values in ends.items()
    }


def caveats(result: RunResult, recipe: Recipe) -> list[str]:
    """What keeps a run's numbers from being the published ones, most serious first; one sentence each."""
    config, backbone = result.config, result.config["backbone"]
    entries = published_for(recipe.protocol, recipe.variant)
    found = []
    if not result.complete:
        found.append("the run is not finished: scores are not known yet")
    if "-unverified-" in config["split_id"]:
        found.append(
            "the data sets were not checked against the published sizes: numbers on imitations mean nothing"
        )
    if backbone["name"].startswith(PREFIX):
        found.append(f"the backbone has random weights ({backbone['name']})")
    elif backbone["name"] != recipe.backbone or recipe.pretrained not in backbone["pretrained"]:
        found.append(
            f"backbone {backbone['name']} ({backbone['pretrained']}) instead of {recipe.backbone} "
            f"({recipe.pretrained})"
        )
    expected = training_images(recipe)
    if expected is not None and len(result.order) != len(expected):
        found.append(f"{len(result.order)} tasks were learned, {len(expected)} were published")
    found += _changed_settings(result, recipe)
    space = config["label_space"]
    found.append(f"label space {space!r}: an image is classified among {LABEL_SPACES[space]}")
    others = {entry.label_space for entry in entries} - {space}
    found += [f"published for label space {other!r}" for other in sorted(others)]
    if config["split_id"].startswith("mtil"):
        found += _split_text(config["split_id"].split("-")[1], entries)
    if config["decision"] != "sample":
        found.append(
            "test images of a batch decide together to which task they belong (as published)"
        )
    if result.config.get("skipped_images"):
        count = sum(config["skipped_images"].values())
        found.append(f"{count} unreadable images were left out")
    found += recipe.caveats
    found += [f"{entry.id}: {entry.note}" for entry in entries if entry.note]
    for entry in entries:
        if not entry.verified:
            found.append(f"published figure not verified: {entry.source}")
    if not entries:
        found.append("no published figure of this recipe is known here")
    return found


def _changed_settings(result: RunResult, recipe: Recipe) -> list[str]:
    paper, own = json.loads(json.dumps(asdict(recipe.config()))), result.config["method_config"]
    changed = [f"{name}={own.get(name)!r}" for name in paper if own.get(name) != paper[name]]
    return [f"settings differ from the paper's: {', '.join(changed)}"] if changed else []


def _split_text(split: str, entries: list[Published]) -> list[str]:
    texts = {
        "zscl": "split 'zscl' (ZSCL, MoE-Adapters): the official parts, 80/20 where there are none; "
        "SUN397's cannot equal the authors' (its file order is not known)",
        "coop": "split 'coop' (DIKI): CoOp's parts, one template",
    }
    others = sorted({entry.split for entry in entries if entry.split not in (None, split)})
    mixed = [
        f"published for split {other!r}: test images differ for 8 of 11 data sets"
        for other in others
        if other != "unclear"
    ]
    return [texts[split], *mixed]
