"""The downstream domains of the miniature stream, each with a look of its own that pre-training never uses.

Six domains form the stream (textures, sketches, land, digits, flowers, signs); a seventh (faces) is held out of every
stream and probes zero-shot ability. The digits are the real handwritten ones that scikit-learn ships (Alpaydin and
Kaynak, 1998, UCI "Optical Recognition of Handwritten Digits"); everything else is drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from vlcl_toolkit.mini.captions import NUMBER_WORDS
from vlcl_toolkit.mini.draw import canvas
from vlcl_toolkit.mini.draw.canvas import Image
from vlcl_toolkit.mini.draw.faces import EXPRESSION_NAMES
from vlcl_toolkit.mini.draw.flowers import SPECIES_NAMES
from vlcl_toolkit.mini.draw.land import TERRAIN_NAMES
from vlcl_toolkit.mini.draw.looks import (
    draw_garden,
    draw_land,
    draw_portraits,
    draw_roadside,
    draw_sketches,
    draw_textures,
)
from vlcl_toolkit.mini.draw.patterns import PATTERN_NAMES
from vlcl_toolkit.mini.draw.shapes import SHAPE_NAMES
from vlcl_toolkit.mini.draw.signs import SIGN_NAMES

Rng = np.random.Generator
Render = Callable[[Rng, np.ndarray], Image]  # class indices [n] -> float images [n, 3, h, w]


@dataclass(frozen=True)
class Domain:
    """A visual domain: class names, two prompt templates, and how its images are rendered.

    render is None for the real digits.
    """

    name: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    render: Render | None


def handwritten_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's 1,797 handwritten digits (8 x 8), enlarged: uint8 [1797, 3, h, w] and labels [1797]."""
    digits = load_digits()
    small = torch.from_numpy(digits.images / 16).float().unsqueeze(1)
    large = F.interpolate(
        F.pad(small, (1, 1, 1, 1)), size=canvas.SIZE, mode="bicubic", align_corners=False
    )
    return canvas.to_bytes(large.expand(-1, 3, -1, -1)), torch.from_numpy(digits.target).long()


def _subset(names: tuple[str, ...], chosen: tuple[str, ...], render: Render) -> Render:
    table = np.array([names.index(name) for name in chosen])
    return lambda rng, labels: render(rng, table[labels])


TEXTURES = (
    "striped",
    "checkered",
    "dotted",
    "grid",
    "zigzag",
    "brick",
    "scaly",
    "spiral",
    "honeycomb",
    "crossed",
)
SKETCHES = ("house", "tree", "fish", "boat", "umbrella", "key", "cup", "flag", "mushroom", "bell")
LAND = (
    "forest",
    "river",
    "lake",
    "beach",
    "desert",
    "field",
    "road",
    "village",
    "orchard",
    "mountain",
)
FLOWERS = (
    "sunflower",
    "daisy",
    "rose",
    "poppy",
    "violet",
    "cornflower",
    "marigold",
    "lily",
    "dahlia",
    "iris",
)
SIGNS = (
    "stop",
    "yield",
    "no entry",
    "parking",
    "hospital",
    "warning",
    "danger",
    "turn left",
    "go straight",
    "priority road",
    "speed limit",
    "no parking",
)

STREAM_DOMAINS: tuple[Domain, ...] = (
    Domain(
        "textures",
        TEXTURES,
        ("a photo of a {} texture.", "a photo of a {} pattern."),
        _subset(PATTERN_NAMES, TEXTURES, draw_textures),
    ),
    Domain(
        "sketches",
        SKETCHES,
        ("a drawing of a {}.", "a photo of a outlined {}."),
        _subset(SHAPE_NAMES, SKETCHES, draw_sketches),
    ),
    Domain(
        "land",
        LAND,
        ("an aerial photo of a {}.", "an aerial view of a {}."),
        _subset(TERRAIN_NAMES, LAND, draw_land),
    ),
    Domain("digits", NUMBER_WORDS, ("a photo of the number {}.", "a photo of the digit {}."), None),
    Domain(
        "flowers",
        FLOWERS,
        ("a photo of a {} flower.", "a photo of a {} in bloom."),
        _subset(SPECIES_NAMES, FLOWERS, draw_garden),
    ),
    Domain(
        "signs",
        SIGNS,
        ("a photo of a {} sign.", "a picture of a {} sign."),
        _subset(SIGN_NAMES, SIGNS, draw_roadside),
    ),
)
HELD_OUT_DOMAINS: tuple[Domain, ...] = (
    Domain(
        "faces",
        EXPRESSION_NAMES,
        ("a photo of a {} face.", "a photo of a {} person."),
        _subset(EXPRESSION_NAMES, EXPRESSION_NAMES, draw_portraits),
    ),
)
