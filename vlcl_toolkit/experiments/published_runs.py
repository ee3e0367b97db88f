"""The papers' runs by name: "mtil-order-I/diki" is a stream, a method and all that the paper says about them.

`published/*.yaml` is the single place where they stand; settings of methods come from their presets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.load import load_stream
from vlcl_toolkit.methods.presets import choose_settings
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.streams.full_size.class_incremental import VARIANTS as CLASS_INCREMENTAL
from vlcl_toolkit.streams.full_size.mtil import VARIANTS as MTIL
from vlcl_toolkit.streams.full_size.reference import CAPTIONS, CAPTIONS_ADDRESS
from vlcl_toolkit.streams.full_size.sources import require
from vlcl_toolkit.streams.location import data_folder
from vlcl_toolkit.streams.splits import facts

_NAMED_REFERENCES = {"imagenet": "ImageNet", "tinyimagenet": "TinyImageNet"}


@dataclass(frozen=True)
class Recipe:
    """A published run.

    Attributes:
        protocol, variant: the two parts of its name.
        title: the protocol in words.
        stream: name for `load_stream`. `split`: division of MTIL; None: that of the stream.
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


@lru_cache(maxsize=1)
def recipes() -> dict[str, Recipe]:
    """All of them by name, in the order of the files."""
    found: dict[str, Recipe] = {}
    for file in ("mtil", "class_incremental"):
        path = Path(__file__).parent / "published" / f"{file}.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for protocol, facts_of in content["protocols"].items():
            for variant in facts_of["methods"]:
                own = {"method": variant} | content["methods"].get(variant, {})
                caveats = [content, facts_of, own]
                recipe = Recipe(
                    protocol=protocol,
                    variant=variant,
                    title=facts_of["title"],
                    stream=facts_of["stream"],
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


def recipe_stream(recipe: Recipe, **options: Any) -> TaskStream:
    """The stream of a recipe, with its division and its reference material.

    Args:
        options: of `load_stream`; they come before those of the recipe. reference="none": without.

    Raises:
        UserError: a file is missing: which, from where, into which folder.
    """
    if recipe.split is not None:
        options.setdefault("split", recipe.split)
    reference = options.pop("reference", None)
    if reference is None and recipe.reference is not None:
        reference = _own_reference(recipe, options)
    if reference not in (None, "none"):
        options["reference"] = reference
    return load_stream(recipe.stream, **options)


def _own_reference(recipe: Recipe, options: Mapping[str, Any]) -> str:
    # Before the stream is read and tested: a run should not stop after an hour for want of a file.
    assert recipe.reference is not None
    root = data_folder(options.get("root"))
    if recipe.captions and "captions" not in options and not (root / CAPTIONS).is_file():
        raise UserError(
            f"{recipe.name} needs reference sentences: {root / CAPTIONS} is missing; fetch it from "
            f"{CAPTIONS_ADDRESS}, or name a captions file with --captions"
        )
    if recipe.reference in _NAMED_REFERENCES:
        try:
            require(_NAMED_REFERENCES[recipe.reference], root)
        except UserError as error:
            raise UserError(f"{recipe.name} needs reference images: {error}") from error
        return recipe.reference
    folder = root / recipe.reference
    if not folder.is_dir():
        raise UserError(
            f"{recipe.name} needs reference images: the folder {folder} is missing; fetch the images "
            f"whose addresses stand in {CAPTIONS} into it, or name another one with --reference"
        )
    return str(folder)


def training_images(recipe: Recipe) -> list[int] | None:
    """Number of training images of each task as published; None: not published.

    Class-incremental: equal parts of the whole set, which is true of CIFAR-100 and Tiny-ImageNet.
    """
    if recipe.stream in MTIL:
        variant, known = MTIL[recipe.stream], facts("mtil")
        split, sets = recipe.split or variant.split, known["data_sets"]
        order = known["orders"][variant.order]
        classes = "coop_classes" if split == "coop" else "classes"
        if variant.shots is not None:
            return [variant.shots * sets[name][classes] for name in order]
        return [sets[name]["sizes"][split]["train"] for name in order]
    steps, known = CLASS_INCREMENTAL[recipe.stream], facts("class_incremental")
    total = known["sizes"][steps.data_set]["train"]
    if total is None:
        return None
    count = len(known["orders"][steps.data_set])
    sizes = [steps.base] + [steps.increment] * ((count - steps.base) // steps.increment)
    return [round(total * size / count) for size in sizes]


def training_steps(recipe: Recipe, changes: Mapping[str, Any] | None = None) -> int | None:
    """Optimisation steps of a whole run on the published data sets; None: sizes are not published.

    What a method computes before its training steps (Gaussians, autoencoders) is not counted.
    """
    config, images = recipe.config(changes), training_images(recipe)
    if recipe.method == "zero_shot":
        return 0
    if images is None:
        return None
    epochs = getattr(config, "epochs", None)
    if epochs is None:
        return (config.iterations + 1) * len(images)
    extra = hasattr(config, "iterations")  # these take one step more, with learning rate 0
    return sum(epochs * -(-count // config.batch_size) + extra for count in images)
