"""What keeps a run's numbers from being the published ones."""

import json
from dataclasses import asdict

from vlcl_toolkit.analysis.published import Published, published_for
from vlcl_toolkit.random_backbone import PREFIX
from vlcl_toolkit.recipes.protocol import Recipe
from vlcl_toolkit.results import RunResult


def caveats(result: RunResult, recipe: Recipe) -> list[str]:
    """What keeps a run's numbers from being the published ones, most serious first; one sentence each."""
    config, backbone = result.config, result.config["backbone"]
    entries = published_for(recipe.protocol, recipe.variant)
    found = []
    if not result.complete:
        found.append("the run is not finished: scores are not known yet")
    if "-replica-" in config["split_id"]:
        found.append("the data sets are replicas: the numbers mean nothing")
    if backbone["name"].startswith(PREFIX):
        found.append(f"the backbone has random weights ({backbone['name']})")
    elif backbone["name"] != recipe.backbone or recipe.pretrained not in backbone["pretrained"]:
        found.append(
            f"backbone {backbone['name']} ({backbone['pretrained']}) instead of {recipe.backbone} "
            f"({recipe.pretrained})"
        )
    found += _changed_settings(result, recipe)
    found.append(_label_space(config["label_space"]))
    if config["split_id"].startswith("mtil"):
        found += _division(config["split_id"].split("-")[1], entries)
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


def _label_space(label_space: str) -> str:
    if label_space == "task":
        return "label space 'task': an image is classified among the classes of its own data set"
    return "label space 'seen': an image is classified among the classes of all steps so far"


def _division(split: str, entries: list[Published]) -> list[str]:
    texts = {
        "zscl": "division 'zscl' (ZSCL, MoE-Adapters): the official parts, 80/20 where there are none; "
        "SUN397's cannot equal the authors' (its file order is not known)",
        "coop": "division 'coop' (DIKI): CoOp's parts, one template",
    }
    others = sorted({entry.split for entry in entries if entry.split not in (None, split)})
    mixed = [
        f"published for division {other!r}: test images differ for 8 of 11 data sets"
        for other in others
        if other != "unclear"
    ]
    return [texts[split], *mixed]
