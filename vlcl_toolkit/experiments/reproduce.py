"""Run a recipe: the paper's stream, backbone and settings, or a dry run of it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.experiments.published_runs import Recipe, find_recipe
from vlcl_toolkit.load import load_clip, load_stream
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.streams.full_size.reference import CAPTIONS, CAPTIONS_ADDRESS
from vlcl_toolkit.streams.full_size.sources import require
from vlcl_toolkit.streams.location import VARIABLE, data_folder
from vlcl_toolkit.training.events import Event, RowEvent, StopRun
from vlcl_toolkit.training.loop import run
from vlcl_toolkit.training.results import RunResult

_NAMED_REFERENCES = {"imagenet": "ImageNet", "tinyimagenet": "TinyImageNet"}
DRY_RUN_BACKBONE = "random:ViT-B-16-quickgelu:depth=2,width=64,pixels=32,dim=32"
"""ViT-B/16 with random weights, two blocks instead of twelve, on images of 32 pixels."""

DRY_RUN_SETTINGS: dict[str, dict[str, Any]] = {
    "diki": {"epochs": 1, "batch_size": 256, "shrinkage": "auto"},
    "prefix_tuning": {"epochs": 1, "batch_size": 256, "shrinkage": "auto"},
    "dpw": {"epochs": 1, "batch_size": 256, "shrinkage": "auto", "heads": 2},
    "rail": {"width": 100},
    "lora": {"iterations": 2, "warmup": 1, "batch_size": 8, "rank": 4},
    "nusa_cl": {"iterations": 2, "warmup": 1, "batch_size": 8, "rank": 4},
    "keeplora": {"epochs": 1, "task_epochs": {}, "batch_size": 256, "rank": 4},
    "moe_adapters": {
        "iterations": 2,
        "warmup": 1,
        "batch_size": 8,
        "selector_features": "clip",  # AlexNet wants larger images, and weights from the network
        "selector_iterations": 2,
        "selector_reference_iterations": 2,
        "selector_augment": False,
    },
}
"""Settings that end in moments, by method; see `dry_run_settings`."""

_FEW_STEPS = {"iterations": 2, "warmup": 1, "batch_size": 8}


def dry_run_settings(method: str) -> dict[str, Any]:
    """Settings of a method with which a whole run ends in moments."""
    return {} if method == "zero_shot" else DRY_RUN_SETTINGS.get(method, _FEW_STEPS)


def recipe_stream(recipe: Recipe, **options: Any) -> TaskStream:
    """The stream of a recipe, with its split and its reference data.

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
    stream = load_stream(recipe.stream, **options)
    if recipe.label_space is None:
        return stream
    return stream.with_label_space(recipe.label_space, merge_shared_names=recipe.merge_shared_names)


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


def run_recipe(
    recipe: str | Recipe,
    *,
    stream: TaskStream | None = None,
    clip: Clip | None = None,
    data: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    stop_after: int | None = None,
    callback: Callable[[Event], None] | None = None,
    **options: Any,
) -> RunResult:
    """Run a recipe; it resumes and leaves a folder as `run` does.

    Args:
        recipe: a name, e.g. "mtil-order-I/diki".
        stream: for `recipe_stream` was called already; None: read from `data`.
        clip: None: the recipe's backbone.
        data: folder of the data sets; None: the environment variable VLCL_DATA.
        settings: that differ from the paper's.
        stop_after: stop after so many tasks; the same call without it goes on.
        callback, options: passed on to `run`.

    Raises:
        UserError: unknown recipe or setting; a file is missing.
    """
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    recipe.config(settings)  # a wrong setting should not cost the reading of eleven data sets
    if stop_after is not None and stop_after < 1:
        raise UserError(f"stop_after counts tasks, at least 1; found {stop_after}")
    if stream is None:
        stream = recipe_stream(recipe, **({} if data is None else {"root": data}))
    if clip is None:
        clip = load_clip(recipe.backbone, pretrained=recipe.pretrained)

    def listen(event: Event) -> None:
        if callback is not None:
            callback(event)
        if isinstance(event, RowEvent) and event.row_index == stop_after:
            raise StopRun

    changes = {**(recipe.settings or {}), **(settings or {})}
    return run(recipe.method, stream, clip, config=changes, callback=listen, **options)


@dataclass(frozen=True)
class FullScale:
    """What the notebook of full-size runs works with.

    Attributes:
        data: the data folder. `backbone`, `pretrained`: for `load_clip`.
        dry_run: True: imitations of the data sets and random weights, whose numbers mean nothing.
    """

    data: Path
    backbone: str
    pretrained: str | None
    dry_run: bool

    def stream(self, recipe: Recipe) -> TaskStream:
        """The stream of a recipe; imitations are not checked against the published sizes."""
        return recipe_stream(recipe, root=self.data, **({"verify": False} if self.dry_run else {}))

    def settings(self, method: str) -> dict[str, Any]:
        """The paper's settings (nothing changed), or those of a dry run."""
        return dry_run_settings(method) if self.dry_run else {}


def full_scale(imitations: str | Path) -> FullScale:
    """The data sets that VLCL_DATA names, with OpenAI's ViT-B/16; without them, a dry run on `imitations`."""
    given = os.environ.get(VARIABLE)
    if given is not None:
        return FullScale(Path(given).expanduser(), "ViT-B-16-quickgelu", "openai", dry_run=False)
    return FullScale(Path(imitations), DRY_RUN_BACKBONE, None, dry_run=True)
