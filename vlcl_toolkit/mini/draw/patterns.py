"""Surface patterns: functions of local coordinates, one unit per period, with values between 0 and 1."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vlcl_toolkit.mini.draw.canvas import Plane

EDGE = 7.0  # steepness of the transitions, soft enough not to alias at the shortest period used


def step(value: Plane) -> Plane:
    """A soft edge at 0."""
    return (0.5 + EDGE * value / 2).clamp(0, 1)


def wrap(value: Plane) -> Plane:
    """The offset from the nearest integer, in [-0.5, 0.5]."""
    return value - value.round()


def stripes(u: Plane, v: Plane) -> Plane:
    return step(0.25 - wrap(u).abs())


def checks(u: Plane, v: Plane) -> Plane:
    return step(torch.sin(math.pi * u) * torch.sin(math.pi * v) / 2)


def dots(u: Plane, v: Plane) -> Plane:
    return step(0.3 - torch.hypot(wrap(u), wrap(v)))


def lattice(u: Plane, v: Plane) -> Plane:
    return step(0.11 - torch.minimum(wrap(u).abs(), wrap(v).abs()))


def waves(u: Plane, v: Plane) -> Plane:
    return step(0.2 - wrap(u * 0.9 + 0.55 * torch.sin(2 * math.pi * v * 0.45)).abs())


def zigzag(u: Plane, v: Plane) -> Plane:
    return step(0.22 - wrap(u + 2.2 * wrap(v * 0.7).abs()).abs())


def bricks(u: Plane, v: Plane) -> Plane:
    row = torch.floor(v * 1.3)
    return step(
        torch.minimum(
            0.5 - wrap(v * 1.3 - 0.5).abs(), 0.62 - wrap(u * 0.65 + 0.5 * row).abs() / 0.8
        )
        - 0.08
    )


def rings(u: Plane, v: Plane) -> Plane:
    return step(0.25 - wrap(torch.hypot(u, v)).abs())


def scales(u: Plane, v: Plane) -> Plane:
    row = torch.floor(v * 1.6)
    below = torch.hypot(wrap(u + 0.5 * row), v * 1.6 - row)
    return step(0.09 - (below - 0.62).abs() * 0.8) + 0.45 * (below < 0.62)


def spiral(u: Plane, v: Plane) -> Plane:
    return step(0.25 - wrap(torch.hypot(u, v) + torch.atan2(v, u) / (2 * math.pi)).abs())


def honeycomb(u: Plane, v: Plane) -> Plane:
    def cell(a: Plane, b: Plane) -> Plane:
        x, y = wrap(a).abs(), wrap(b / math.sqrt(3)).abs() * math.sqrt(3)
        return torch.maximum(x, 0.5 * x + 0.866 * y)

    return step(0.41 - torch.minimum(cell(u, v), cell(u + 0.5, v + math.sqrt(3) / 2)))


def speckles(u: Plane, v: Plane) -> Plane:
    blobs = torch.sin(5.3 * u + 2.1 * torch.sin(3.7 * v)) + torch.sin(
        4.9 * v + 2.7 * torch.sin(4.3 * u)
    )
    return step((blobs - 0.9) / 3)


def plaid(u: Plane, v: Plane) -> Plane:
    return (stripes(u, v) + stripes(v, u)) / 2


def crosses(u: Plane, v: Plane) -> Plane:
    x, y = wrap(u * 0.8).abs(), wrap(v * 0.8).abs()
    arm = torch.minimum(torch.maximum(x - 0.1, y - 0.34), torch.maximum(y - 0.1, x - 0.34))
    return step(-arm * 1.3)


def rays(u: Plane, v: Plane) -> Plane:
    return step(torch.sin(6 * torch.atan2(v, u)) / 3)


def plain(u: Plane, v: Plane) -> Plane:
    return (0.5 + 0.2 * u).clamp(0.2, 0.8)


PATTERNS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "striped": stripes,
    "checkered": checks,
    "dotted": dots,
    "grid": lattice,
    "wavy": waves,
    "zigzag": zigzag,
    "brick": bricks,
    "ringed": rings,
    "scaly": scales,
    "spiral": spiral,
    "honeycomb": honeycomb,
    "speckled": speckles,
    "plaid": plaid,
    "crossed": crosses,
    "radial": rays,
    "plain": plain,
}
PATTERN_NAMES = tuple(PATTERNS)
