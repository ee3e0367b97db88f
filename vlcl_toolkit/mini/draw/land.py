"""Land seen from above: kinds of terrain drawn with a palette, as a map or as a satellite would show them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlcl_toolkit.mini.draw.canvas import (
    Image,
    Plane,
    column,
    coverage,
    fill,
    grid,
    local_coordinates,
    paint,
    smooth_noise,
    warp,
)
from vlcl_toolkit.mini.draw.colours import mixture
from vlcl_toolkit.mini.draw.patterns import wrap


@dataclass(frozen=True)
class Look:
    """Base colours of the materials, how much they vary, and how rough the surfaces are."""

    water: tuple[float, float, float]
    grass: tuple[float, float, float]
    wood: tuple[float, float, float]
    sand: tuple[float, float, float]
    soil: tuple[float, float, float]
    rock: tuple[float, float, float]
    snow: tuple[float, float, float]
    road: tuple[float, float, float]
    roof: tuple[float, float, float]
    spread: float
    roughness: float


class Terrain:
    """One batch of terrain images with its own coordinates, noise and colours."""

    def __init__(self, rng: np.random.Generator, n: int, look: Look) -> None:
        self.rng, self.n, self.look = rng, n, look
        x, y = grid()
        x, y = local_coordinates(x, y, angle=rng.uniform(0, 2 * math.pi, n))
        self.u, self.v = warp(rng, x, y, n, rng.uniform(0.0, 0.25, n))

    def ground(self, material: str) -> Image:
        base = fill(mixture(self.rng, self.n, getattr(self.look, material), self.look.spread))
        rough = smooth_noise(self.rng, self.n, 9) - 0.5
        return base + self.look.roughness * rough

    def lay(self, image: Image, mask: Plane, material: str) -> Image:
        return paint(image, mask, self.ground(material))

    def uniform(self, low: float | int, high: float | int) -> Float[Tensor, "n 1 1"]:
        return column(self.rng.uniform(low, high, self.n))


def soft(distance: Plane) -> Plane:
    return coverage(distance)


def forest(t: Terrain) -> Image:
    crowns = smooth_noise(t.rng, t.n, 14)[:, 0]
    return t.ground("wood") * (0.55 + 0.9 * crowns).unsqueeze(1)


def river(t: Terrain) -> Image:
    bend = (
        t.u
        + t.uniform(0.15, 0.4) * torch.sin(t.uniform(2, 4) * t.v + t.uniform(0, 6))
        + t.uniform(-0.3, 0.3)
    )
    return t.lay(t.ground("grass"), soft(bend.abs() - t.uniform(0.16, 0.34)), "water")


def lake(t: Terrain) -> Image:
    shore = torch.hypot(t.u - t.uniform(-0.2, 0.2), t.v * t.uniform(0.8, 1.3)) + 0.5 * (
        smooth_noise(t.rng, t.n, 4)[:, 0] - 0.5
    )
    return t.lay(t.ground("grass"), soft(shore - t.uniform(0.45, 0.7)), "water")


def island(t: Terrain) -> Image:
    shore = torch.hypot(t.u - t.uniform(-0.2, 0.2), t.v) + 0.5 * (
        smooth_noise(t.rng, t.n, 4)[:, 0] - 0.5
    )
    size = t.uniform(0.4, 0.65)
    return t.lay(
        t.lay(t.ground("water"), soft(shore - size), "sand"), soft(shore - size + 0.14), "grass"
    )


def beach(t: Terrain) -> Image:
    shore = t.u + 0.25 * (smooth_noise(t.rng, t.n, 3)[:, 0] - 0.5) + t.uniform(-0.3, 0.1)
    image = t.lay(t.ground("water"), soft(shore - 0.05), "sand")
    return t.lay(image, soft(shore + t.uniform(0.4, 0.6)), "grass")


def desert(t: Terrain) -> Image:
    dunes = torch.sin(t.uniform(7, 12) * t.u + 2.5 * smooth_noise(t.rng, t.n, 4)[:, 0] * 2)
    return t.ground("sand") * (1 + 0.14 * dunes).unsqueeze(1)


def field(t: Terrain) -> Image:
    rows = wrap(t.u * t.uniform(2.5, 4.0)).abs()
    image = t.lay(t.ground("grass"), soft(rows - 0.22), "soil")
    return t.lay(image, soft((t.v - t.uniform(-0.6, 0.6)).abs() - 0.05), "sand")


def road(t: Terrain) -> Image:
    offset = t.u + t.uniform(-0.4, 0.4) + t.uniform(0.0, 0.15) * torch.sin(2 * t.v)
    image = t.lay(t.ground("grass"), soft(offset.abs() - t.uniform(0.17, 0.28)), "road")
    dashes = torch.maximum(offset.abs() - 0.03, 0.3 - wrap(t.v * 2.5).abs())
    return t.lay(image, soft(dashes), "snow")


def village(t: Terrain) -> Image:
    spacing = t.uniform(1.3, 1.8)
    a, b = t.u * spacing, t.v * spacing
    houses = torch.maximum(wrap(a).abs() - 0.27, wrap(b).abs() - 0.22) / spacing
    image = t.lay(t.ground("grass"), soft((wrap(a + 0.5).abs() - 0.1) / spacing), "road")
    return t.lay(image, soft(houses), "roof")


def orchard(t: Terrain) -> Image:
    spacing = t.uniform(1.7, 2.4)
    trees = (torch.hypot(wrap(t.u * spacing), wrap(t.v * spacing)) - 0.33) / spacing
    return t.lay(t.ground("soil"), soft(trees), "wood")


def mountain(t: Terrain) -> Image:
    height = smooth_noise(t.rng, t.n, 4)[:, 0] + 0.35 * (1 - torch.hypot(t.u, t.v))
    light = torch.gradient(height, dim=2)[0] + torch.gradient(height, dim=1)[0]
    image = t.lay(t.ground("rock"), soft(t.uniform(0.5, 0.65) - height), "snow")
    return image * (1 + 3.5 * light).unsqueeze(1)


def glacier(t: Terrain) -> Image:
    cracks = wrap(1.6 * smooth_noise(t.rng, t.n, 4)[:, 0] + t.u * 0.6).abs()
    return t.lay(t.ground("snow"), soft(cracks - 0.07) * 0.8, "water")


def harbor(t: Terrain) -> Image:
    quay = t.u + t.uniform(-0.1, 0.2)
    image = t.lay(t.ground("water"), soft(quay + t.uniform(0.35, 0.5)), "road")
    pier = torch.maximum(wrap(t.v * 1.2).abs() - 0.12, quay - t.uniform(0.3, 0.6))
    return t.lay(image, soft(pier), "road")


def airport(t: Terrain) -> Image:
    first = t.u.abs() - t.uniform(0.12, 0.18)
    second = (
        t.v * t.uniform(0.7, 1) + t.u * t.uniform(-0.4, 0.4) + t.uniform(-0.3, 0.3)
    ).abs() - t.uniform(0.1, 0.16)
    image = t.lay(t.ground("grass"), soft(torch.minimum(first, second)), "rock")
    return t.lay(image, soft(torch.maximum(t.u.abs() - 0.025, 0.25 - wrap(t.v * 3).abs())), "snow")


TERRAINS: dict[str, Callable[[Terrain], Image]] = {
    "forest": forest,
    "river": river,
    "lake": lake,
    "island": island,
    "beach": beach,
    "desert": desert,
    "field": field,
    "road": road,
    "village": village,
    "orchard": orchard,
    "mountain": mountain,
    "glacier": glacier,
    "harbor": harbor,
    "airport": airport,
}
TERRAIN_NAMES = tuple(TERRAINS)


def draw_terrain(rng: np.random.Generator, which: np.ndarray, look: Look) -> Image:
    """Images of the terrains ``which`` [n] (indices into TERRAIN_NAMES)."""
    image = torch.empty(len(which), 3, *grid()[0].shape[1:])
    for kind in np.unique(which):
        rows = np.flatnonzero(which == kind)
        image[torch.from_numpy(rows)] = TERRAINS[TERRAIN_NAMES[kind]](Terrain(rng, len(rows), look))
    return image
