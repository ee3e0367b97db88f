"""The looks of the downstream domains: cloth, pencil, satellite, garden, roadside, portrait.

Pre-training never uses any of these; its own are in data/mini/families.py.
"""

import math

import numpy as np
import torch

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
from vlcl_toolkit.mini.draw.colours import COLOUR_NAMES, TABLE, mixture
from vlcl_toolkit.mini.draw.faces import draw_expressions
from vlcl_toolkit.mini.draw.flowers import Flowers, draw_flowers
from vlcl_toolkit.mini.draw.land import Look, draw_terrain
from vlcl_toolkit.mini.draw.patterns import PATTERNS
from vlcl_toolkit.mini.draw.shapes import SHAPES
from vlcl_toolkit.mini.draw.signs import Signs, draw_signs

Rng = np.random.Generator
SATELLITE = Look(
    water=(0.13, 0.28, 0.44),
    grass=(0.41, 0.52, 0.29),
    wood=(0.16, 0.32, 0.17),
    sand=(0.77, 0.69, 0.50),
    soil=(0.54, 0.42, 0.30),
    rock=(0.42, 0.40, 0.38),
    snow=(0.92, 0.93, 0.95),
    road=(0.40, 0.40, 0.42),
    roof=(0.65, 0.43, 0.37),
    spread=0.06,
    roughness=0.18,
)


def photograph(rng: Rng, image: Image, haze: float = 0.2) -> Image:
    """What a cheap camera does: uneven light, colour cast, low contrast, blur and grain."""
    n = len(image)
    image = canvas.illuminate(rng, image, rng.uniform(0.05, 0.35, n))
    cast = torch.from_numpy(rng.normal(1, 0.05, (n, 3, 1, 1)).astype(np.float32))
    contrast, saturation = rng.uniform(0.8, 1.1, n), rng.uniform(0.65, 1.0, n)
    image = canvas.tone(image * cast, contrast, rng.normal(0, 0.05, n), saturation)
    veil = column(rng.uniform(0, 0.7 * haze, n)).unsqueeze(1)
    image = torch.lerp(image, torch.full_like(image, 0.7), veil)
    image = canvas.blur(image, rng.uniform(0.2, 1, n))
    return canvas.grain(rng, image, rng.uniform(0.01, 0.035, n))


def clutter(rng: Rng, n: int, bases: list[tuple[float, float, float]]) -> Image:
    """An out-of-focus scene: blobs of colours around the given ones."""
    choice = rng.integers(len(bases), size=(2, n))
    table = np.asarray(bases)
    first, second = (np.clip(table[c] + rng.normal(0, 0.07, (n, 3)), 0, 1) for c in choice)
    image = paint(fill(first), canvas.smooth_noise(rng, n, 5)[:, 0], second)
    return image + 0.5 * (canvas.smooth_noise(rng, n, 11) - 0.5)


def draw_textures(rng: Rng, kinds: np.ndarray) -> Image:
    """Cloth and walls: warped and turned patterns in two muted, similar colours under side light."""
    n = len(kinds)
    x, y = canvas.warp(rng, *grid(), n, rng.uniform(0.2, 0.5, n))
    u, v = local_coordinates(
        x,
        y,
        centre_x=rng.uniform(-0.4, 0.4, n),
        centre_y=rng.uniform(-0.4, 0.4, n),
        scale=rng.uniform(0.45, 0.8, n),
        angle=rng.uniform(0, 2 * math.pi, n),
    )
    base = rng.uniform(0.25, 0.75, (n, 3))
    weave = by_kind(kinds, PATTERNS, u, v)
    direction = rng.normal(0, 1, (n, 3)) * 0.5 + rng.choice([-1, 1], (n, 1))
    other = base + direction / np.linalg.norm(direction, axis=1, keepdims=True) * rng.uniform(
        0.45, 0.75, (n, 1)
    )
    cloth = paint(fill(base), weave, np.clip(other, 0, 1)) + 0.10 * (
        canvas.smooth_noise(rng, n, 16) - 0.5
    )
    return photograph(rng, cloth, haze=0.1)


def draw_sketches(rng: Rng, kinds: np.ndarray) -> Image:
    """Pencil on paper: wobbly double outlines, sometimes hatched."""
    n = len(kinds)
    paper = fill(mixture(rng, n, (0.93, 0.91, 0.86), 0.03)) + 0.10 * (
        canvas.smooth_noise(rng, n, 18) - 0.5
    )
    scale = rng.uniform(0.62, 0.98, n)
    room = 0.95 - scale
    placed = {
        "centre_x": rng.uniform(-1, 1, n) * room,
        "centre_y": rng.uniform(-1, 1, n) * room,
        "scale": scale,
        "angle": rng.normal(0, 0.2, n),
    }
    lead = np.repeat(rng.uniform(0.15, 0.42, (n, 1)), 3, axis=1)
    image = paper
    inside = torch.zeros(n, canvas.SIZE, canvas.SIZE)
    for pass_ in range(2):
        x, y = canvas.warp(rng, *grid(), n, rng.uniform(0.08, 0.2, n), cells=4)
        u, v = local_coordinates(x, y, **placed)
        distance = by_kind(kinds, SHAPES, u, v)
        width = column(rng.uniform(0.028, 0.05, n) / scale)
        pressure = (0.55 + 0.6 * canvas.smooth_noise(rng, n, 6)[:, 0]).clamp(0, 1) * (
            1.0 if pass_ == 0 else 0.6
        )
        image = paint(image, coverage(distance.abs() - width, scale) * pressure, lead)
        inside = coverage(distance, scale)
    x, y = grid()
    hatch_angle = column(rng.uniform(0, math.pi, n))
    lines = torch.sin(
        column(rng.uniform(14, 24, n)) * (x * torch.cos(hatch_angle) + y * torch.sin(hatch_angle))
    )
    hatched = column(rng.random(n) < 0.5) * inside * (lines > 0.3) * 0.45
    return canvas.grain(
        rng,
        canvas.blur(paint(image, hatched, lead), rng.uniform(0, 0.5, n)),
        rng.uniform(0.01, 0.04, n),
    )


def draw_land(rng: Rng, kinds: np.ndarray) -> Image:
    """Satellite pictures: dark natural colours, rough ground, haze and cloud shadow."""
    n = len(kinds)
    image = draw_terrain(rng, kinds, SATELLITE)
    shadow = (canvas.smooth_noise(rng, n, 2) - 0.5) * column(rng.uniform(0, 0.35, n)).unsqueeze(1)
    return photograph(
        rng, image + shadow + 0.10 * (canvas.smooth_noise(rng, n, 19) - 0.5), haze=0.3
    )


def draw_garden(rng: Rng, kinds: np.ndarray) -> Image:
    """Flowers photographed in a bed: leaves, a second flower behind, tilted, out of focus."""
    n = len(kinds)
    image = clutter(
        rng, n, [(0.16, 0.33, 0.12), (0.30, 0.45, 0.18), (0.25, 0.22, 0.14), (0.12, 0.2, 0.1)]
    )
    for _ in range(3):
        u, v = local_coordinates(
            *grid(),
            centre_x=rng.uniform(-1, 1, n),
            centre_y=rng.uniform(-1, 1, n),
            scale=rng.uniform(0.4, 0.7, n),
            angle=rng.uniform(0, 2 * math.pi, n),
        )
        blade = torch.maximum(torch.hypot(u - 0.62, v) - 1.0, torch.hypot(u + 0.62, v) - 1.0)
        image = paint(image, coverage(blade, 0.5), mixture(rng, n, (0.22, 0.42, 0.16), 0.08))
    flowers = Flowers.of_species(kinds)
    for far in (True, False):
        x, y = grid()
        squeeze = column(rng.uniform(1.0, 1.5, n))
        x, y = canvas.warp(
            rng,
            *local_coordinates(x, y, angle=rng.uniform(0, 2 * math.pi, n)),
            n,
            rng.uniform(0.05, 0.25, n),
        )
        side = 0.75 if far else 0.22
        image = draw_flowers(
            rng,
            image,
            flowers,
            x,
            y * squeeze,
            centre_x=rng.uniform(-side, side, n),
            centre_y=rng.uniform(-side, side, n),
            scale=rng.uniform(0.3, 0.5, n) if far else rng.uniform(0.6, 0.9, n),
            colour_spread=0.10,
            jitter=0.14,
        )
    return photograph(rng, image)


def draw_roadside(rng: Rng, kinds: np.ndarray) -> Image:
    """Signs photographed on poles: perspective, weather, scenery, things in front."""
    n = len(kinds)
    image = clutter(
        rng, n, [(0.55, 0.68, 0.80), (0.35, 0.42, 0.28), (0.48, 0.46, 0.44), (0.70, 0.66, 0.58)]
    )
    x, y = grid()
    centre_x, centre_y = rng.uniform(-0.2, 0.2, (2, n))
    pole = torch.maximum((x - column(centre_x)).abs() - 0.06, column(centre_y) - y)
    image = paint(image, coverage(pole), mixture(rng, n, (0.45, 0.45, 0.46)))
    scale = rng.uniform(0.6, 0.88, n)
    u, v = local_coordinates(
        x, y, centre_x=centre_x, centre_y=centre_y, scale=scale, angle=rng.normal(0, 0.12, n)
    )
    depth = 1 + column(rng.normal(0, 0.18, n)) * u + column(rng.normal(0, 0.12, n)) * v
    u, v = u / depth * column(rng.uniform(1.0, 1.35, n)), v / depth
    image = draw_signs(rng, image, Signs.named(kinds), u, v, scale, colour_spread=0.09)
    dirt = canvas.smooth_noise(rng, n, 8)
    image = image * (1 - column(rng.uniform(0, 0.45, n)).unsqueeze(1) * dirt)
    branch = (
        u * column(rng.normal(0, 1, n))
        + v * column(rng.normal(0, 1, n))
        + column(rng.uniform(-0.6, 0.6, n))
    ).abs()
    covered = coverage(branch - 0.06) * column(rng.random(n) < 0.35)
    return photograph(rng, paint(image, covered, mixture(rng, n, (0.2, 0.28, 0.15))))


def draw_portraits(rng: Rng, kinds: np.ndarray) -> Image:
    """Painted people: skin tones, hair, rooms behind."""
    n = len(kinds)
    skins = np.asarray(
        [(0.93, 0.76, 0.65), (0.80, 0.60, 0.46), (0.60, 0.42, 0.30), (0.42, 0.28, 0.20)]
    )
    image = clutter(
        rng, n, [(0.60, 0.55, 0.50), (0.40, 0.45, 0.55), (0.55, 0.62, 0.55), (0.7, 0.62, 0.52)]
    )
    scale = rng.uniform(0.75, 1.0, n)
    placed = {"centre_x": rng.uniform(-0.15, 0.15, n), "centre_y": rng.uniform(0.0, 0.2, n)}
    x, y = grid()
    u, v = local_coordinates(x, y, **placed, scale=scale, angle=rng.normal(0, 0.12, n))
    hair = torch.hypot(u * column(rng.uniform(0.8, 1.0, n)), v + 0.2) - 0.84
    image = paint(
        image,
        coverage(hair, scale),
        TABLE[rng.choice([COLOUR_NAMES.index(c) for c in ("black", "brown", "orange")], n)],
    )
    skin = np.clip(skins[rng.integers(4, size=n)] + rng.normal(0, 0.04, (n, 3)), 0, 1)
    head = torch.hypot(u * column(rng.uniform(1.05, 1.25, n)), v) - 0.82
    image = paint(image, coverage(torch.maximum(head, -0.62 - v), scale), skin)
    image = draw_expressions(rng, image, kinds, u, v, scale, skin * 0.28)
    return photograph(rng, image)
