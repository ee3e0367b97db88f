"""Flowers seen from above: petals around a centre, and a table of species."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from vlcl_toolkit.mini.draw.canvas import Image, column, coverage, local_coordinates, paint
from vlcl_toolkit.mini.draw.colours import COLOUR_NAMES, shade


@dataclass(frozen=True)
class Species:
    """How a species looks: number and shape of petals (lengths relative to the flower's radius) and colours."""

    petals: int
    width: float
    sharpness: float
    petal_colour: str
    centre_colour: str
    centre_radius: float
    layers: int = 1


SPECIES: dict[str, Species] = {
    "sunflower": Species(18, 0.13, 0.8, "yellow", "brown", 0.42),
    "daisy": Species(13, 0.13, 0.0, "white", "yellow", 0.26),
    "rose": Species(5, 0.48, 0.0, "red", "red", 0.30, 3),
    "poppy": Species(4, 0.55, 0.0, "red", "black", 0.24),
    "violet": Species(5, 0.30, 0.0, "purple", "yellow", 0.14),
    "cornflower": Species(9, 0.20, -0.5, "blue", "purple", 0.22),
    "buttercup": Species(5, 0.40, 0.0, "yellow", "orange", 0.20),
    "marigold": Species(14, 0.18, 0.0, "orange", "brown", 0.18, 2),
    "lily": Species(6, 0.24, 0.9, "white", "orange", 0.13),
    "dahlia": Species(12, 0.17, 0.6, "pink", "red", 0.18, 2),
    "lotus": Species(8, 0.28, 0.9, "pink", "yellow", 0.22),
    "aster": Species(16, 0.09, 0.2, "purple", "yellow", 0.28),
    "iris": Species(3, 0.46, 0.0, "purple", "white", 0.16),
    "primrose": Species(5, 0.38, -0.3, "cyan", "white", 0.18),
    "hibiscus": Species(5, 0.46, -0.2, "pink", "white", 0.14),
    "carnation": Species(16, 0.16, -0.5, "white", "pink", 0.12, 2),
}
SPECIES_NAMES = tuple(SPECIES)


@dataclass(frozen=True)
class Flowers:
    """A batch of flower descriptions; every field has one entry per image."""

    petals: np.ndarray
    width: np.ndarray
    sharpness: np.ndarray
    petal_colour: np.ndarray
    centre_colour: np.ndarray
    centre_radius: np.ndarray
    layers: np.ndarray

    @classmethod
    def of_species(cls, which: np.ndarray) -> "Flowers":
        """The flowers of the species ``which`` [n] (indices into SPECIES_NAMES)."""
        rows = [SPECIES[SPECIES_NAMES[i]] for i in which]
        colour = COLOUR_NAMES.index
        return cls(
            petals=np.array([r.petals for r in rows]),
            width=np.array([r.width for r in rows]),
            sharpness=np.array([r.sharpness for r in rows]),
            petal_colour=np.array([colour(r.petal_colour) for r in rows]),
            centre_colour=np.array([colour(r.centre_colour) for r in rows]),
            centre_radius=np.array([r.centre_radius for r in rows]),
            layers=np.array([r.layers for r in rows]),
        )


def draw_flowers(
    rng: np.random.Generator,
    image: Image,
    flowers: Flowers,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    centre_x: np.ndarray | float = 0.0,
    centre_y: np.ndarray | float = 0.0,
    scale: np.ndarray,
    colour_spread: float = 0.05,
    jitter: float = 0.08,
) -> Image:
    """Paint one flower per image, each a little different from its description (relative ``jitter``)."""
    n = len(image)
    u, v = local_coordinates(x, y, centre_x=centre_x, centre_y=centre_y, scale=scale)
    radius, angle = torch.hypot(u, v), torch.atan2(v, u)
    width = flowers.width * rng.normal(1, jitter, n)
    colour = shade(rng, flowers.petal_colour, colour_spread)
    turn = rng.uniform(0, 2 * math.pi, n)
    for layer in range(int(flowers.layers.max())):
        visible = column(flowers.layers > layer)
        length = 0.95 * (1 - 0.3 * layer) * rng.normal(1, jitter / 2, n)
        sector = 2 * math.pi / flowers.petals
        position = (angle + column(turn + layer * sector / 2)) / column(sector)
        offset = (position - position.round()) * column(sector)
        along = (radius * torch.cos(offset)) / column(length)
        across = radius * torch.sin(offset).abs()
        taper = 1 - column(flowers.sharpness) * (along - 0.5)
        outline = (
            torch.hypot((along - 0.5) / 0.5, across / (column(width) * taper).clamp(min=0.02)) - 1
        )
        mask = coverage(outline * column(np.minimum(width, 0.3)), scale) * visible
        darker = (1 - 0.16 * layer) * (0.78 + 0.3 * along.clamp(0, 1)).unsqueeze(1)
        image = paint(image, mask, torch.as_tensor(colour).view(n, 3, 1, 1) * darker)
    heart = coverage(radius - column(flowers.centre_radius * rng.normal(1, jitter, n)), scale)
    return paint(image, heart, shade(rng, flowers.centre_colour, colour_spread))
