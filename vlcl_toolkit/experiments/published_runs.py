"""The papers' runs by name: "mtil-order-I/diki" is a stream, a method and all that the paper says about them.

`published/*.yaml` is the single place where they stand; settings of methods come from their presets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from vlcl_toolkit.errors import unknown_name
from vlcl_toolkit.methods.low_rank.config import LowRankConfig
from vlcl_toolkit.methods.presets import choose_settings
from vlcl_toolkit.streams.splits import CLASS_INCREMENTAL, MTIL, XTAIL, facts


@dataclass(frozen=True)
class Recipe:
    """A published run.

    Attributes:
        protocol, variant: the two parts of its name.
        title: the protocol in words.
        stream: name for `load_stream`. `split`: split of MTIL; None: that of the stream.
        label_space, merge_shared_names: for `with_label_space`; None: those of the stream.
        method: name of the method. `settings`: what differs from the preset.
        backbone, pretrained: for `load_clip`.
        reference: "imagenet", "tinyimagenet", or a folder below the data folder; None: not needed.
        captions: whether reference sentences are needed.
        caveats: what keeps the numbers from being the published ones, known beforehand.
    """

    protocol: str
    variant: str
    title: str
    stream: str
    method: str
    backbone: str
    pretrained: str
    split: str | None = None
    label_space: str | None = None
    merge_shared_names: bool = False
    settings: Mapping[str, Any] | None = None
    reference: str | None = None
    captions: bool = False
    caveats: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"{self.protocol}/{self.variant}"

    def config(self, changes: Mapping[str, Any] | None = None) -> Any:
        """All settings of the method, `changes` included.

        Raises:
            UserError: a change names no setting or does not fit.
        """
        own = {**(self.settings or {}), **(changes or {})}
        return choose_settings(self.method, self.backbone, self.stream, own)[0]


_OF_PROTOCOLS = ("title", "stream", "label_space", "merge_shared_names")


@lru_cache(maxsize=1)
def recipes() -> dict[str, Recipe]:
    """All of them by name, in the order of the files."""
    found: dict[str, Recipe] = {}
    for file in ("mtil", "task_agnostic", "class_incremental"):
        path = Path(__file__).parent / "published" / f"{file}.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for protocol, facts_of in content["protocols"].items():
            for variant in facts_of["methods"]:
                own = {"method": variant} | content["methods"].get(variant, {})
                caveats = [content, facts_of, own]
                own |= {name: facts_of[name] for name in _OF_PROTOCOLS if name in facts_of}
                recipe = Recipe(
                    protocol=protocol,
                    variant=variant,
                    backbone=content["backbone"],
                    pretrained=content["pretrained"],
                    **own
                    | {"caveats": tuple(text for c in caveats for text in c.get("caveats", ()))},
                )
                found[recipe.name] = recipe
    return found


def find_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        UserError: there is none.
    """
    if name not in recipes():
        raise unknown_name("recipe", name, recipes())
    return recipes()[name]


def training_images(recipe: Recipe) -> list[int] | None:
    """Number of training images of each task as published; None: not published.

    Class-incremental: equal parts of the whole set, which is true of CIFAR-100 and Tiny-ImageNet.
    """
    if recipe.stream in MTIL or recipe.stream in XTAIL:
        variant, known = (MTIL | XTAIL)[recipe.stream], facts("mtil")
        split, sets = recipe.split or variant.split, known["data_sets"]
        order = _task_names(recipe)
        classes = "coop_classes" if split == "coop" else "classes"
        if variant.shots is not None:
            return [variant.shots * sets[name][classes] for name in order]
        return [sets[name]["sizes"][split]["train"] for name in order]
    blocks, known = CLASS_INCREMENTAL[recipe.stream], facts("class_incremental")
    total = known["sizes"][blocks.data_set]["train"]
    if total is None:
        return None
    count = len(known["orders"][blocks.data_set])
    sizes = [blocks.base] + [blocks.increment] * ((count - blocks.base) // blocks.increment)
    return [round(total * size / count) for size in sizes]


def training_steps(recipe: Recipe, changes: Mapping[str, Any] | None = None) -> int | None:
    """Optimisation steps of a whole run on the published data sets; None: sizes are not published.

    What a method computes before its training steps (Gaussians, autoencoders) is not counted.
    """
    if recipe.method in ("zero_shot", "rail"):
        return 0
    config, images = recipe.config(changes), training_images(recipe)
    if images is None:
        return None
    epochs = getattr(config, "epochs", None)
    # Methods that count iterations take one step more, with learning rate 0; the low-rank ones do not.
    extra = hasattr(config, "iterations") and not isinstance(config, LowRankConfig)
    if epochs is None:
        return (config.iterations + extra) * len(images)
    of_task = getattr(config, "task_epochs", {})
    names = _task_names(recipe) or [""] * len(images)
    return sum(
        of_task.get(name, epochs) * -(-count // config.batch_size) + extra
        for name, count in zip(names, images, strict=False)
    )


def _task_names(recipe: Recipe) -> list[str]:
    # Of MTIL and X-TAIL, in order.
    variants = MTIL | XTAIL
    known = recipe.stream in variants
    return facts("mtil")["orders"][variants[recipe.stream].order] if known else []
