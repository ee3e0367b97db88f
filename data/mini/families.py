"""The families of the pre-training world: seven kinds of pictures, each a function (rng, n) -> images, meanings.

A meaning is the heart of a caption ("a red star"); world.py makes sentences of it. The pictures are clean graphics:
flat or patterned fills, plain backgrounds, printed characters, maps, emoticons. Nothing here draws in the looks of the
downstream domains (see looks.py).
"""

import math

import numpy as np
import torch

from vlcl_toolkit.mini.captions import NUMBER_WORDS, choose, join, keep, plural, with_article
from vlcl_toolkit.mini.draw import canvas
from vlcl_toolkit.mini.draw.canvas import (
    Image,
    by_kind,
    column,
    coverage,
    fill,
    grid,
    local_coordinates,
    paint,
)
from vlcl_toolkit.mini.draw.colours import COLOUR_NAMES, different, mixture, shade
from vlcl_toolkit.mini.draw.faces import EXPRESSION_NAMES, draw_expressions
from vlcl_toolkit.mini.draw.flowers import SPECIES_NAMES, Flowers, draw_flowers
from vlcl_toolkit.mini.draw.glyphs import CHARACTERS, FONTS, draw_characters
from vlcl_toolkit.mini.draw.land import TERRAIN_NAMES, Look, draw_terrain
from vlcl_toolkit.mini.draw.patterns import PATTERN_NAMES, PATTERNS
from vlcl_toolkit.mini.draw.shapes import SHAPE_NAMES, SHAPES
from vlcl_toolkit.mini.draw.signs import (
    BLANK,
    PICTOGRAMS,
    PLATE_NAMES,
    SIGN_NAMES,
    Signs,
    draw_signs,
)

Rng = np.random.Generator
X, Y = grid()
Pictures = tuple[Image, list[str]]
FILLS = ("striped", "dotted", "checkered", "plaid", "wavy", "speckled")
MAP = Look(
    water=(0.35, 0.62, 0.90),
    grass=(0.62, 0.82, 0.45),
    wood=(0.20, 0.55, 0.25),
    sand=(0.95, 0.87, 0.60),
    soil=(0.70, 0.52, 0.32),
    rock=(0.58, 0.56, 0.55),
    snow=(0.95, 0.96, 0.98),
    road=(0.42, 0.42, 0.44),
    roof=(0.80, 0.32, 0.25),
    spread=0.05,
    roughness=0.08,
)


def background(rng: Rng, colours: np.ndarray) -> Image:
    """Backgrounds of the given named colours: plain, shaded, cloudy, or faintly patterned."""
    n = len(colours)
    image = fill(shade(rng, colours, 0.06))
    uneven = canvas.smooth_noise(rng, n, 3) - 0.5
    image = image + uneven * column(rng.choice([0, 0, 0.25, 0.5], n)).unsqueeze(1)
    return canvas.illuminate(rng, image, rng.choice([0, 0.2, 0.4], n))


def place(rng: Rng, n: int, low: float, high: float, tilt: float = 0.15) -> dict[str, np.ndarray]:
    """A random position, scale and angle that keep most of the object in view."""
    scale = rng.uniform(low, high, n)
    room = np.maximum(0.92 - scale, 0.05)
    return {
        "centre_x": rng.uniform(-1, 1, n) * room,
        "centre_y": rng.uniform(-1, 1, n) * room,
        "scale": scale,
        "angle": rng.normal(0, tilt, n),
    }


def objects(rng: Rng, n: int) -> Pictures:
    """One large shape, several small ones, or two different ones; filled, patterned or outlined."""
    kind, other = rng.integers(len(SHAPE_NAMES), size=(2, n))
    colour, other_colour = rng.integers(len(COLOUR_NAMES), size=(2, n))
    ground = different(rng, colour)
    count = rng.choice([1, 2, 3], n, p=[0.76, 0.14, 0.10])
    pair = (count == 2) & (rng.random(n) < 0.5)
    style = rng.choice([0, 1, 2], n, p=[0.62, 0.2, 0.18])  # plain, patterned, outlined
    pattern = rng.integers(len(FILLS), size=n)
    big = place(rng, n, 0.45, 0.95)
    image = background(rng, ground)
    inks = (shade(rng, colour, 0.06), shade(rng, np.where(pair, other_colour, colour), 0.06))
    accent = torch.as_tensor(shade(rng, different(rng, colour), 0.06)).view(n, 3, 1, 1)
    for index in range(3):
        angle = rng.uniform(0, 2 * math.pi) + index * 2 * math.pi / count
        where = {
            "centre_x": np.where(
                count == 1, big["centre_x"], 0.45 * np.cos(angle) + rng.normal(0, 0.05, n)
            ),
            "centre_y": np.where(
                count == 1, big["centre_y"], 0.45 * np.sin(angle) + rng.normal(0, 0.05, n)
            ),
            "scale": np.where(count == 1, big["scale"], rng.uniform(0.3, 0.42, n)),
            "angle": big["angle"],
        }
        rows = np.flatnonzero(count > index)
        if not len(rows):
            break
        where = {name: value[rows] for name, value in where.items()}
        u, v = local_coordinates(X, Y, **where)
        drawn = by_kind(np.where(pair & (index == 1), other, kind)[rows], SHAPES, u, v)
        scale = where["scale"]
        stroke = np.where(style[rows] == 2, rng.uniform(0.05, 0.10, len(rows)) / scale, 9.0)
        drawn = torch.maximum(drawn, -drawn - column(stroke))
        ink = (
            torch.as_tensor(inks[index == 1][rows])
            .view(-1, 3, 1, 1)
            .expand(-1, -1, canvas.SIZE, canvas.SIZE)
        )
        weave = by_kind(
            np.array([PATTERN_NAMES.index(FILLS[p]) for p in pattern[rows]]),
            PATTERNS,
            u * 2.2,
            v * 2.2,
        ) * column(style[rows] == 1)
        ink = paint(ink, weave, accent[torch.from_numpy(rows)])
        image[torch.from_numpy(rows)] = paint(
            image[torch.from_numpy(rows)], coverage(drawn, scale), ink
        )
    captions = []
    for i in range(n):
        size = (
            keep(rng, 0.25, "large" if big["scale"][i] > 0.7 else "small")
            if count[i] == 1
            else None
        )
        texture = (None, FILLS[pattern[i]], "outlined")[style[i]]
        words = join(
            size,
            keep(rng, 0.45, COLOUR_NAMES[colour[i]]),
            keep(rng, 0.6, texture) if texture else None,
            SHAPE_NAMES[kind[i]],
        )
        if pair[i]:
            second = join(keep(rng, 0.45, COLOUR_NAMES[other_colour[i]]), SHAPE_NAMES[other[i]])
            core = f"{with_article(words)} and {with_article(second)}"
        elif count[i] > 1:
            head, _, noun = words.rpartition(" ")
            core = join(NUMBER_WORDS[count[i]], head, plural(noun))
        else:
            core = with_article(words)
        if rng.random() < 0.15:
            core += f" on {with_article(COLOUR_NAMES[ground[i]])} background"
        captions.append(core)
    return image, captions


def glyphs(rng: Rng, n: int) -> Pictures:
    """Printed digits (more often) and letters, stretched, slanted, bent, now and then coarse."""
    digit = rng.random(n) < 0.62
    character = np.where(digit, rng.integers(10, size=n), rng.integers(10, len(CHARACTERS), size=n))
    colour = rng.integers(len(COLOUR_NAMES), size=n)
    bend = canvas.warp(rng, X, Y, n, rng.choice([0, 0.3, 0.6], n))
    where = place(rng, n, 0.5, 1.0, tilt=0.12)
    mask = draw_characters(
        character,
        rng.integers(len(FONTS), size=n),
        **where,
        bend=bend,
        stretch=rng.uniform(0.7, 1.3, n),
        slant=rng.normal(0, 0.2, n),
    )
    image = paint(background(rng, different(rng, colour, 0.6)), mask, shade(rng, colour, 0.06))
    coarse = torch.nn.functional.interpolate(
        torch.nn.functional.avg_pool2d(image, 4),
        size=canvas.SIZE,
        mode="bilinear",
        align_corners=False,
    )
    image = torch.where(torch.from_numpy(rng.random(n) < 0.25).view(n, 1, 1, 1), coarse, image)
    captions = []
    for i in range(n):
        shown = CHARACTERS[character[i]]
        noun, name = "letter" if shown.isalpha() else "sign", shown.lower()
        if digit[i] and rng.random() < 0.6:
            name = NUMBER_WORDS[int(shown)]
        ink = keep(rng, 0.25, COLOUR_NAMES[colour[i]])
        if digit[i]:
            noun = choose(rng, ("number", "digit", "number"))
        captions.append(f"the {join(ink, noun, name)}")
    return image, captions


def textures(rng: Rng, n: int) -> Pictures:
    """Patterns in two colours that fill the picture."""
    kind = rng.integers(len(PATTERN_NAMES), size=n)
    first = rng.integers(len(COLOUR_NAMES), size=n)
    second = different(rng, first)
    u, v = local_coordinates(
        X,
        Y,
        centre_x=rng.uniform(-0.3, 0.3, n),
        centre_y=rng.uniform(-0.3, 0.3, n),
        scale=rng.uniform(0.4, 0.8, n),
        angle=rng.choice([0, 0, math.pi / 2, math.pi / 4], n) + rng.normal(0, 0.1, n),
    )
    weave = by_kind(kind, PATTERNS, u, v)
    image = paint(background(rng, first), weave, shade(rng, second, 0.06))
    captions = []
    for i in range(n):
        colours = f"{COLOUR_NAMES[first[i]]} and {COLOUR_NAMES[second[i]]}"
        words = join(
            keep(rng, 0.2, colours),
            PATTERN_NAMES[kind[i]],
            choose(rng, ("texture", "pattern", "surface")),
        )
        captions.append(with_article(words))
    return image, captions


def signs(rng: Rng, n: int) -> Pictures:
    """Flat signs with any plate, colours and pictogram; a few are those that have a name."""
    named = rng.random(n) < 0.35
    which = rng.integers(len(SIGN_NAMES), size=n)
    colour = rng.integers(len(COLOUR_NAMES), size=n)
    by_name = Signs.named(which)
    free = Signs(
        plate=rng.integers(len(PLATE_NAMES), size=n),
        colour=colour,
        border=rng.integers(len(COLOUR_NAMES), size=n),
        mark_colour=different(rng, colour),
        mark=np.where(rng.random(n) < 0.2, BLANK, rng.integers(len(PICTOGRAMS), size=n)),
    )
    batch = Signs(
        **{
            f: np.where(named, getattr(by_name, f), getattr(free, f))
            for f in Signs.__dataclass_fields__
        }
    )
    where = place(rng, n, 0.65, 1.0, tilt=0.05)
    u, v = local_coordinates(X, Y, **where)
    image = draw_signs(
        rng, background(rng, rng.integers(len(COLOUR_NAMES), size=n)), batch, u, v, where["scale"]
    )
    captions = []
    for i in range(n):
        if named[i] and rng.random() < 0.5:
            core = with_article(f"{SIGN_NAMES[which[i]]} sign")
        else:
            core = with_article(
                join(
                    keep(rng, 0.7, COLOUR_NAMES[batch.colour[i]]),
                    PLATE_NAMES[batch.plate[i]],
                    "sign",
                )
            )
            if batch.mark[i] != BLANK and rng.random() < 0.75:
                mark = join(
                    keep(rng, 0.4, COLOUR_NAMES[batch.mark_colour[i]]),
                    PICTOGRAMS[batch.mark[i]].lower(),
                )
                core += f" with {with_article(mark)}"
        captions.append(core)
    return image, captions


def flowers(rng: Rng, n: int) -> Pictures:
    """Single flowers on plain ground, told mostly by petals and colours, sometimes by the name of the species."""
    known = rng.random(n) < 0.6
    species = rng.integers(len(SPECIES_NAMES), size=n)
    of_species = Flowers.of_species(species)
    petal_colour = rng.integers(len(COLOUR_NAMES), size=n)
    free = Flowers(
        petals=rng.choice([3, 4, 5, 6, 8, 10, 12, 16], n),
        width=rng.uniform(0.1, 0.45, n),
        sharpness=rng.uniform(-0.5, 0.9, n),
        petal_colour=petal_colour,
        centre_colour=different(rng, petal_colour),
        centre_radius=rng.uniform(0.14, 0.4, n),
        layers=rng.choice([1, 1, 2], n),
    )
    batch = Flowers(
        **{
            f: np.where(known, getattr(of_species, f), getattr(free, f))
            for f in Flowers.__dataclass_fields__
        }
    )
    where = place(rng, n, 0.6, 0.98)
    ground = background(rng, different(rng, batch.petal_colour))
    image = draw_flowers(
        rng,
        ground,
        batch,
        X,
        Y,
        colour_spread=0.06,
        centre_x=where["centre_x"],
        centre_y=where["centre_y"],
        scale=where["scale"],
    )
    captions = []
    for i in range(n):
        if known[i] and rng.random() < 0.4:
            core = with_article(
                choose(rng, ("{}", "{} flower", "{} in bloom")).format(SPECIES_NAMES[species[i]])
            )
        else:
            core = with_article(join(keep(rng, 0.5, COLOUR_NAMES[batch.petal_colour[i]]), "flower"))
            number = batch.petals[i]
            if rng.random() < 0.5:
                core += f" with {NUMBER_WORDS[number] if number < 10 else 'many'} petals"
            elif rng.random() < 0.4:
                core += f" with {with_article(COLOUR_NAMES[batch.centre_colour[i]])} center"
        captions.append(core)
    return image, captions


def land(rng: Rng, n: int) -> Pictures:
    """Drawn maps of kinds of terrain."""
    which = rng.integers(len(TERRAIN_NAMES), size=n)
    views = ("a map of {}", "an aerial view of {}", "{} from above", "{}", "an aerial photo of {}")
    captions = [choose(rng, views).format(with_article(TERRAIN_NAMES[i])) for i in which]
    return draw_terrain(rng, which, MAP), captions


def faces(rng: Rng, n: int) -> Pictures:
    """Round emoticons of any colour on plain ground."""
    which = rng.integers(len(EXPRESSION_NAMES), size=n)
    colour = np.where(
        rng.random(n) < 0.4, COLOUR_NAMES.index("yellow"), rng.integers(len(COLOUR_NAMES), size=n)
    )
    dark = np.isin(
        colour, [COLOUR_NAMES.index(name) for name in ("black", "brown", "blue", "purple")]
    )
    where = place(rng, n, 0.7, 1.1, tilt=0.08)
    u, v = local_coordinates(X, Y, **where)
    image = background(rng, different(rng, colour))
    image = paint(
        image, coverage(torch.hypot(u, v) - 0.82, where["scale"]), shade(rng, colour, 0.06)
    )
    ink = np.where(
        dark[:, None], mixture(rng, n, (0.95, 0.95, 0.95)), mixture(rng, n, (0.1, 0.08, 0.08))
    )
    image = draw_expressions(rng, image, which, u, v, where["scale"], ink)
    captions = []
    for i in which:
        core = choose(
            rng, ("a {} face", "a face that looks {}", "somebody {}", "a {} person")
        ).format(EXPRESSION_NAMES[i])
        captions.append(core.replace("a angry", "an angry"))
    return image, captions
