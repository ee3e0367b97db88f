"""The pre-training world: pictures of all families, mild camera effects, sentences, some of them wrong."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from families import Pictures, Rng, faces, flowers, glyphs, land, objects, signs, textures

from vlcl_toolkit.mini.captions import mix_up, sentence
from vlcl_toolkit.mini.draw import canvas
from vlcl_toolkit.mini.draw.canvas import Image

WRONG_CAPTIONS = 0.04


def finish(rng: Rng, image: Image) -> Image:
    """Mild camera effects, the same for every family."""
    n = len(image)
    image = canvas.tone(
        image, rng.normal(1, 0.12, n), rng.normal(0, 0.06, n), rng.normal(1, 0.15, n).clip(0.2)
    )
    image = canvas.blur(image, rng.choice([0, 0, 0.5, 1], n))
    return canvas.grain(rng, image, rng.choice([0, 0.02, 0.05], n))


FAMILIES: dict[str, tuple[Callable[[Rng, int], Pictures], float]] = {
    "objects": (objects, 0.30),
    "glyphs": (glyphs, 0.20),
    "textures": (textures, 0.17),
    "signs": (signs, 0.11),
    "flowers": (flowers, 0.10),
    "land": (land, 0.07),
    "faces": (faces, 0.05),
}


@dataclass(frozen=True)
class World:
    """Captioned images: uint8 [n, 3, h, w], one sentence each, and what each sentence says without its phrasing."""

    images: torch.Tensor
    captions: list[str]
    meanings: list[str]


def draw_world(rng: Rng, n: int) -> World:
    """n pre-training images with their captions, the families mixed in random order."""
    shares = np.array([share for _, share in FAMILIES.values()])
    counts = rng.multinomial(n, shares / shares.sum())
    images, meanings = [], []
    for (draw, _), count in zip(FAMILIES.values(), counts, strict=True):
        if count:
            image, meaning = draw(rng, int(count))
            images.append(canvas.to_bytes(finish(rng, image)))
            meanings += mix_up(rng, meaning, WRONG_CAPTIONS)
    order = rng.permutation(n)
    meanings = [meanings[i] for i in order]
    captions = [sentence(rng, meaning) for meaning in meanings]
    return World(torch.cat(images)[torch.from_numpy(order)], captions, meanings)
