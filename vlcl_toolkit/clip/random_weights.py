"""A CLIP of an open_clip architecture with random weights, optionally with fewer and narrower blocks.

For dry runs: every step of a full-size run, in minutes on a laptop. The numbers mean nothing, and
the name that every record carries says so:

    random:ViT-B-16-quickgelu                          the true size
    random:ViT-B-16-quickgelu:depth=2,width=64         two blocks per tower, 64 channels
    random:ViT-B-16-quickgelu:depth=2,width=64,pixels=64,dim=32,seed=1

depth: blocks of each tower. width: channels of the image tower, a multiple of 64 (the width of an
attention head); the text tower shrinks in proportion. pixels: side of an image, a multiple of the
patch. dim: dimensions of the joint space. seed: of the weights, 0 unless given.
"""

from copy import deepcopy
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP

from vlcl_toolkit.errors import UserError, unknown_name

PREFIX = "random:"
_HEAD = 64  # channels of an attention head
_OPTIONS = ("depth", "width", "pixels", "dim", "seed")


def load_random(name: str) -> tuple[CLIP, Any, str]:
    """The model of a name, its tokenizer, and a description of its weights.

    Raises:
        UserError: as `random_backbone`.
    """
    architecture, config, seed = random_backbone(name)
    tokenizer = open_clip.get_tokenizer(architecture)
    return random_model(config, seed), tokenizer, f"random weights, seed {seed}"


def random_backbone(name: str) -> tuple[str, dict[str, Any], int]:
    """Parse a name.

    Args:
        name: "random:<architecture>", or with ":<option>=<number>,..." behind it.

    Returns:
        the architecture's name, its changed open_clip configuration, and the seed.

    Raises:
        UserError: unknown architecture or option, or a number that does not fit.
    """
    architecture, _, text = name.removeprefix(PREFIX).partition(":")
    known = open_clip.get_model_config(architecture)
    if known is None:
        raise unknown_name("architecture", architecture, open_clip.list_models())
    options = _read_options(text)
    config = deepcopy(known)
    vision, texts = config["vision_cfg"], config["text_cfg"]
    if not isinstance(vision.get("layers"), int) or "width" not in texts:
        raise UserError(
            f"{architecture} is not a CLIP with a ViT and a text transformer; choose one that is, "
            "e.g. 'random:ViT-B-16-quickgelu'"
        )
    if "depth" in options:
        vision["layers"] = texts["layers"] = options["depth"]
    if "width" in options:
        width = _multiple("width", options["width"], _HEAD)
        ratio = width / vision["width"]
        vision["width"] = width
        texts["width"] = max(_HEAD, round(texts["width"] * ratio / _HEAD) * _HEAD)
        texts["heads"] = texts["width"] // _HEAD
    if "pixels" in options:
        vision["image_size"] = _multiple("pixels", options["pixels"], vision["patch_size"])
    config["embed_dim"] = options.get("dim", config["embed_dim"])
    return architecture, config, options.get("seed", 0)


def random_model(config: dict[str, Any], seed: int) -> CLIP:
    """A CLIP with open_clip's initial weights; the same for the same seed, whatever torch's generator did before.

    Args:
        config: as open_clip has it, e.g. from `random_backbone`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIP(**config)


def _read_options(text: str) -> dict[str, int]:
    options: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key not in _OPTIONS:
            raise unknown_name("option of a random backbone", key, _OPTIONS)
        if not value.isdecimal() or (int(value) < 1 and key != "seed"):
            raise UserError(
                f"{key} of a random backbone must be a number above 0; found {value!r}; "
                f"write e.g. {PREFIX}ViT-B-16-quickgelu:depth=2"
            )
        options[key] = int(value)
    return options


def _multiple(name: str, value: int, unit: int) -> int:
    if value % unit:
        raise UserError(
            f"{name} of a random backbone must be a multiple of {unit}; found {value}; "
            f"take {max(unit, round(value / unit) * unit)}"
        )
    return value
