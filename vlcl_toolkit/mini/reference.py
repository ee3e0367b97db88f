"""Unlabelled reference data: images and sentences that methods may distil on (ZSCL) or take as "none of the tasks".

Neither is the pre-training distribution, as ImageNet and Conceptual Captions are not CLIP's: the images mix unrelated
silhouettes, characters and terrain in collages with a film look, and the sentences follow a grammar of their own over
words that pre-training has seen.
"""

import numpy as np
import torch

from vlcl_toolkit.mini.captions import NUMBER_WORDS, choose, plural, with_article
from vlcl_toolkit.mini.draw import canvas
from vlcl_toolkit.mini.draw.canvas import by_kind, column, coverage, grid, local_coordinates, paint
from vlcl_toolkit.mini.draw.colours import COLOUR_NAMES, mixture, shade
from vlcl_toolkit.mini.draw.faces import EXPRESSION_NAMES
from vlcl_toolkit.mini.draw.flowers import SPECIES_NAMES, Flowers, draw_flowers
from vlcl_toolkit.mini.draw.glyphs import CHARACTERS, FONTS, draw_characters
from vlcl_toolkit.mini.draw.land import TERRAIN_NAMES, Look, draw_terrain
from vlcl_toolkit.mini.draw.patterns import PATTERN_NAMES, PATTERNS
from vlcl_toolkit.mini.draw.shapes import SHAPE_NAMES, SHAPES
from vlcl_toolkit.mini.draw.signs import PLATE_NAMES

PAINTING = Look(
    water=(0.30, 0.45, 0.52),
    grass=(0.55, 0.58, 0.30),
    wood=(0.30, 0.34, 0.20),
    sand=(0.82, 0.70, 0.50),
    soil=(0.52, 0.40, 0.32),
    rock=(0.50, 0.47, 0.50),
    snow=(0.88, 0.85, 0.82),
    road=(0.55, 0.50, 0.46),
    roof=(0.66, 0.42, 0.30),
    spread=0.12,
    roughness=0.3,
)


def reference_images(rng: np.random.Generator, n: int) -> torch.Tensor:
    """n unlabelled collages, uint8 [n, 3, h, w]."""
    x, y = grid()
    base = draw_terrain(rng, rng.integers(len(TERRAIN_NAMES), size=n), PAINTING)
    u, v = local_coordinates(
        x, y, scale=rng.uniform(0.4, 0.9, n), angle=rng.uniform(0, 2 * np.pi, n)
    )
    weave = by_kind(rng.integers(len(PATTERN_NAMES), size=n), PATTERNS, u, v)
    split = coverage(u * column(rng.choice([-1, 1], n)) + column(rng.uniform(-0.6, 0.9, n)), 0.5)
    cloth = paint(
        canvas.fill(mixture(rng, n, (0.5, 0.5, 0.5), 0.2)),
        weave,
        mixture(rng, n, (0.6, 0.55, 0.5), 0.2),
    )
    image = paint(base, split * column(rng.random(n) < 0.7), cloth)
    for _ in range(2):
        where = {
            "centre_x": rng.uniform(-0.6, 0.6, n),
            "centre_y": rng.uniform(-0.6, 0.6, n),
            "scale": rng.uniform(0.35, 0.8, n),
        }
        colour = shade(rng, rng.integers(len(COLOUR_NAMES), size=n), 0.12)
        u, v = local_coordinates(x, y, **where, angle=rng.uniform(0, 2 * np.pi, n))
        figure = coverage(
            by_kind(rng.integers(len(SHAPE_NAMES), size=n), SHAPES, u, v), where["scale"]
        )
        image = paint(image, figure * column(rng.random(n) < 0.5), colour)
    letters = draw_characters(
        rng.integers(len(CHARACTERS), size=n),
        rng.integers(len(FONTS), size=n),
        centre_x=rng.uniform(-0.5, 0.5, n),
        centre_y=rng.uniform(-0.5, 0.5, n),
        scale=rng.uniform(0.3, 0.8, n),
        angle=rng.normal(0, 0.4, n),
    )
    image = paint(
        image,
        letters * column(rng.random(n) < 0.35),
        shade(rng, rng.integers(len(COLOUR_NAMES), size=n), 0.1),
    )
    bloom = draw_flowers(
        rng,
        image,
        Flowers.of_species(rng.integers(len(SPECIES_NAMES), size=n)),
        x,
        y,
        centre_x=rng.uniform(-0.5, 0.5, n),
        centre_y=rng.uniform(-0.5, 0.5, n),
        scale=rng.uniform(0.3, 0.7, n),
        colour_spread=0.15,
        jitter=0.2,
    )
    image = torch.where(torch.from_numpy(rng.random(n) < 0.3).view(n, 1, 1, 1), bloom, image)
    image = canvas.tone(
        image, rng.uniform(0.7, 1.1, n), rng.normal(0, 0.08, n), rng.uniform(0.3, 1.1, n)
    )
    return canvas.to_bytes(
        canvas.grain(rng, canvas.blur(image, rng.uniform(0, 1, n)), rng.uniform(0, 0.05, n))
    )


def reference_sentences(rng: np.random.Generator, n: int) -> list[str]:
    """n sentences about things and places; several things per sentence, no class prompt among them."""
    sentences = []
    for _ in range(n):
        thing, other = choose(rng, SHAPE_NAMES), choose(rng, SHAPE_NAMES)
        colour = choose(rng, COLOUR_NAMES)
        place = with_article(choose(rng, TERRAIN_NAMES))
        flower, mood = choose(rng, SPECIES_NAMES), choose(rng, EXPRESSION_NAMES)
        pattern = choose(rng, PATTERN_NAMES)
        number = choose(rng, NUMBER_WORDS[2:])
        letter, plate = choose(rng, CHARACTERS[10:36]).lower(), choose(rng, PLATE_NAMES)
        options = (
            f"{number} {plural(thing)} in the middle of {place}",
            f"this person looks {mood} with {with_article(flower)} and {with_article(thing)}",
            f"{with_article(colour)} {thing} on {with_article(pattern)} surface",
            f"a cloudy day in {place} with {with_article(colour)} {other}",
            f"somebody with {number} {colour} petals seen from above",
            f"the {pattern} {thing} is {colour} and the {other} is small",
            f"the letter {letter} on {with_article(plate)} in {place}",
            f"{place} with many {plural(other)} and {with_article(flower)}",
        )
        sentences.append(choose(rng, options))
    return sentences
