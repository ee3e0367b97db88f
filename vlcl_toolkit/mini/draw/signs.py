"""Signs: a plate with a border and a pictogram, and a table of named signs."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from vlcl_toolkit.mini.draw.canvas import Image, Plane, by_kind, column, coverage, paint
from vlcl_toolkit.mini.draw.colours import COLOUR_NAMES, shade
from vlcl_toolkit.mini.draw.glyphs import CHARACTERS, draw_characters
from vlcl_toolkit.mini.draw.shapes import SHAPE_NAMES, SHAPES, box, outline_of, regular

PLATES = {
    "circle": SHAPES["circle"],
    "square": SHAPES["square"],
    "triangle": outline_of([(0, -0.85), (0.92, 0.72), (-0.92, 0.72)]),
    "inverted triangle": outline_of([(0, 0.85), (-0.92, -0.72), (0.92, -0.72)]),
    "octagon": regular(8, turn=math.pi / 8),
    "diamond": outline_of([(0, -0.92), (0.92, 0), (0, 0.92), (-0.92, 0)]),
}
PLATE_NAMES = tuple(PLATES)

# A pictogram is a character, a silhouette, an arrow with a direction, a bar, or a diagonal line.
ARROWS = {"right arrow": 0.0, "left arrow": math.pi, "up arrow": -math.pi / 2}
PICTOGRAMS = (
    *(f"letter {c}" if c.isalpha() else c for c in CHARACTERS),
    *SHAPE_NAMES,
    *ARROWS,
    "bar",
    "diagonal line",
)
PICTOGRAM_OF = {name: index for index, name in enumerate(PICTOGRAMS)}
BLANK = -1


@dataclass(frozen=True)
class Sign:
    plate: str
    colour: str
    border: str
    mark_colour: str
    mark: str | None


SIGNS: dict[str, Sign] = {
    "stop": Sign("octagon", "red", "white", "white", "bar"),
    "yield": Sign("inverted triangle", "white", "red", "white", None),
    "no entry": Sign("circle", "red", "red", "white", "bar"),
    "parking": Sign("square", "blue", "white", "white", "letter P"),
    "hospital": Sign("square", "blue", "white", "white", "letter H"),
    "warning": Sign("triangle", "white", "red", "black", "!"),
    "danger": Sign("triangle", "yellow", "black", "black", "bolt"),
    "turn left": Sign("circle", "blue", "white", "white", "left arrow"),
    "go straight": Sign("circle", "blue", "white", "white", "up arrow"),
    "one way": Sign("square", "blue", "blue", "white", "right arrow"),
    "priority road": Sign("diamond", "yellow", "white", "yellow", None),
    "speed limit": Sign("circle", "white", "red", "black", "5"),
    "first aid": Sign("square", "green", "white", "white", "cross"),
    "no parking": Sign("circle", "blue", "red", "red", "diagonal line"),
    "camping": Sign("square", "brown", "white", "white", "triangle"),
    "food": Sign("square", "brown", "white", "white", "cup"),
    "fire": Sign("square", "red", "white", "white", "candle"),
    "information": Sign("square", "green", "green", "white", "letter I"),
}
SIGN_NAMES = tuple(SIGNS)


@dataclass(frozen=True)
class Signs:
    """A batch of sign descriptions (indices; mark = BLANK for none), one entry per image."""

    plate: np.ndarray
    colour: np.ndarray
    border: np.ndarray
    mark_colour: np.ndarray
    mark: np.ndarray

    @classmethod
    def named(cls, which: np.ndarray) -> "Signs":
        rows = [SIGNS[SIGN_NAMES[i]] for i in which]
        colour = COLOUR_NAMES.index
        return cls(
            plate=np.array([PLATE_NAMES.index(r.plate) for r in rows]),
            colour=np.array([colour(r.colour) for r in rows]),
            border=np.array([colour(r.border) for r in rows]),
            mark_colour=np.array([colour(r.mark_colour) for r in rows]),
            mark=np.array([BLANK if r.mark is None else PICTOGRAM_OF[r.mark] for r in rows]),
        )


def pictogram(
    rng: np.random.Generator, marks: np.ndarray, u: Plane, v: Plane, scale: np.ndarray
) -> Plane:
    """Coverage [n, h, w] of the pictograms ``marks`` in the plate's coordinates."""
    mask = torch.zeros_like(u)
    characters = np.flatnonzero((marks >= 0) & (marks < len(CHARACTERS)))
    if len(characters):
        rows = torch.from_numpy(characters)
        fonts = rng.integers(
            0, 2, len(characters)
        )  # the two sans-serif faces that real signs resemble
        drawn = draw_characters(
            marks[characters], fonts, scale=np.full(len(characters), 0.62), bend=(u[rows], v[rows])
        )
        mask[rows] = drawn
    for kind in np.unique(marks[marks >= len(CHARACTERS)]):
        where = np.flatnonzero(marks == kind)
        rows = torch.from_numpy(where)
        a, b = u[rows], v[rows]
        name = PICTOGRAMS[kind]
        if name in ARROWS:
            turn = ARROWS[name]
            a, b = a * math.cos(turn) + b * math.sin(turn), b * math.cos(turn) - a * math.sin(turn)
            distance = SHAPES["arrow"](a / 0.6, b / 0.6) * 0.6
        elif name == "bar":
            distance = box(a, b, 0, 0, 0.52, 0.15)
        elif name == "diagonal line":
            distance = torch.maximum((a - b).abs() * 0.7 - 0.12, torch.hypot(a, b) - 0.7)
        else:
            distance = SHAPES[name](a / 0.48, (b - 0.08) / 0.48) * 0.48
        mask[rows] = coverage(distance, scale[where])
    return mask


def draw_signs(
    rng: np.random.Generator,
    image: Image,
    signs: Signs,
    u: Plane,
    v: Plane,
    scale: np.ndarray,
    colour_spread: float = 0.05,
) -> Image:
    """Paint one sign per image in local coordinates u, v (the plate fills about [-0.9, 0.9])."""
    distance = by_kind(signs.plate, PLATES, u, v)
    image = paint(image, coverage(distance, scale), shade(rng, signs.border, colour_spread))
    thickness = column(rng.uniform(0.11, 0.17, len(image)))
    face = coverage(distance + thickness, scale)
    image = paint(image, face, shade(rng, signs.colour, colour_spread))
    mark = pictogram(rng, signs.mark, u, v, scale) * face
    return paint(image, mark, shade(rng, signs.mark_colour, colour_spread))
