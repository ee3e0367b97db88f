"""Silhouettes: signed distances of named shapes in local coordinates (the shape fills about [-0.9, 0.9]).

Distances are exact for polygons and close to exact elsewhere, which is all that anti-aliasing and outlines need.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlcl_toolkit.mini.draw.canvas import Plane

Silhouette = Callable[[Tensor, Tensor], Tensor]
Number = float | int
Points = Sequence[tuple[Number, Number]]


def disc(u: Plane, v: Plane, cx: Number = 0.0, cy: Number = 0.0, r: Number = 0.8) -> Plane:
    return torch.hypot(u - cx, v - cy) - r


def box(
    u: Plane, v: Plane, cx: Number, cy: Number, half_width: Number, half_height: Number
) -> Plane:
    return torch.maximum((u - cx).abs() - half_width, (v - cy).abs() - half_height)


def polygon(u: Plane, v: Plane, corners: Points) -> Plane:
    """Exact signed distance to a simple polygon given by its corners in order."""
    nearest = torch.full_like(u, torch.inf)
    inside = torch.zeros_like(u, dtype=torch.bool)
    for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
        dx, dy = x1 - x0, y1 - y0
        along = (((u - x0) * dx + (v - y0) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
        nearest = torch.minimum(nearest, (u - x0 - along * dx) ** 2 + (v - y0 - along * dy) ** 2)
        if dy:
            crosses = ((v >= y0) != (v >= y1)) & (u < x0 + dx * (v - y0) / dy)
            inside ^= crosses
    distance = nearest.sqrt()
    return torch.where(inside, -distance, distance)


def regular(corners: int, radius: float = 0.9, turn: float = 0.0) -> Silhouette:
    points = [
        (
            radius * math.sin(2 * math.pi * k / corners + turn),
            -radius * math.cos(2 * math.pi * k / corners + turn),
        )
        for k in range(corners)
    ]
    return lambda u, v: polygon(u, v, points)


def star(points: int = 5, inner: float = 0.4) -> Silhouette:
    radii = [0.95 if k % 2 == 0 else inner for k in range(2 * points)]
    corners = [
        (r * math.sin(math.pi * k / points), -r * math.cos(math.pi * k / points))
        for k, r in enumerate(radii)
    ]
    return lambda u, v: polygon(u, v, corners)


def outline_of(corners: Points) -> Silhouette:
    return lambda u, v: polygon(u, v, corners)


def union(distances: Sequence[Tensor]) -> Plane:
    result = distances[0]
    for distance in distances[1:]:
        result = torch.minimum(result, distance)
    return result


def cut(distance: Plane, hole: Plane) -> Plane:
    return torch.maximum(distance, -hole)


def heart(u: Plane, v: Plane) -> Plane:
    return union(
        [
            disc(u, v, -0.4, -0.3, 0.44),
            disc(u, v, 0.4, -0.3, 0.44),
            polygon(u, v, [(-0.76, -0.06), (0.76, -0.06), (0.0, 0.9)]),
            box(u, v, 0.0, -0.2, 0.3, 0.2),
        ]
    )


def drop(u: Plane, v: Plane) -> Plane:
    return union([disc(u, v, 0, 0.3, 0.56), polygon(u, v, [(0, -0.92), (0.52, 0.1), (-0.52, 0.1)])])


def cloud(u: Plane, v: Plane) -> Plane:
    return union(
        [
            disc(u, v, -0.5, 0.15, 0.38),
            disc(u, v, 0.5, 0.15, 0.38),
            disc(u, v, 0, -0.15, 0.5),
            box(u, v, 0, 0.33, 0.5, 0.2),
        ]
    )


def tree(u: Plane, v: Plane) -> Plane:
    return union(
        [
            polygon(u, v, [(0, -0.95), (0.6, 0.05), (-0.6, 0.05)]),
            polygon(u, v, [(0, -0.5), (0.75, 0.55), (-0.75, 0.55)]),
            box(u, v, 0, 0.72, 0.13, 0.2),
        ]
    )


def fish(u: Plane, v: Plane) -> Plane:
    body = torch.maximum(disc(u, v, -0.15, 0.75, 1.05), disc(u, v, -0.15, -0.75, 1.05))
    return cut(
        union([body, polygon(u, v, [(0.35, 0), (0.92, -0.45), (0.92, 0.45)])]),
        disc(u, v, -0.5, -0.08, 0.07),
    )


def boat(u: Plane, v: Plane) -> Plane:
    return union(
        [
            polygon(u, v, [(-0.9, 0.35), (0.9, 0.35), (0.55, 0.8), (-0.55, 0.8)]),
            polygon(u, v, [(0.02, -0.9), (0.02, 0.22), (-0.65, 0.22)]),
            polygon(u, v, [(0.1, -0.65), (0.6, 0.22), (0.1, 0.22)]),
        ]
    )


def umbrella(u: Plane, v: Plane) -> Plane:
    canopy = torch.maximum(disc(u, v, 0, 0, 0.9), v)
    hook = torch.maximum((torch.hypot(u - 0.16, v - 0.72) - 0.16).abs() - 0.06, 0.72 - v)
    return union([canopy, box(u, v, 0, 0.36, 0.06, 0.38), hook])


def mushroom(u: Plane, v: Plane) -> Plane:
    cap = torch.maximum(torch.hypot(u, (v + 0.05) * 1.15) - 0.88, v + 0.05)
    return union([cap, polygon(u, v, [(-0.24, -0.1), (0.24, -0.1), (0.32, 0.85), (-0.32, 0.85)])])


def key(u: Plane, v: Plane) -> Plane:
    bow = (torch.hypot(u, v + 0.52) - 0.28).abs() - 0.11
    return union(
        [
            bow,
            box(u, v, 0, 0.32, 0.09, 0.58),
            box(u, v, 0.2, 0.8, 0.2, 0.08),
            box(u, v, 0.16, 0.52, 0.16, 0.08),
        ]
    )


def cup(u: Plane, v: Plane) -> Plane:
    handle = torch.maximum((torch.hypot(u - 0.5, v) - 0.32).abs() - 0.09, 0.42 - u)
    return union([polygon(u, v, [(-0.7, -0.6), (0.5, -0.6), (0.38, 0.65), (-0.58, 0.65)]), handle])


def flag(u: Plane, v: Plane) -> Plane:
    return union(
        [box(u, v, -0.62, 0, 0.07, 0.92), polygon(u, v, [(-0.6, -0.9), (0.8, -0.5), (-0.6, -0.08)])]
    )


def leaf(u: Plane, v: Plane) -> Plane:
    blade = torch.maximum(disc(u, v, 0.62, -0.1, 1.0), disc(u, v, -0.62, -0.1, 1.0))
    return union([blade, box(u, v, 0, 0.78, 0.05, 0.15)])


def bell(u: Plane, v: Plane) -> Plane:
    body = union(
        [
            disc(u, v, 0, -0.25, 0.48),
            polygon(u, v, [(-0.47, -0.25), (0.47, -0.25), (0.82, 0.5), (-0.82, 0.5)]),
        ]
    )
    return union([body, disc(u, v, 0, 0.62, 0.18), disc(u, v, 0, -0.78, 0.12)])


def glasses(u: Plane, v: Plane) -> Plane:
    ring = (torch.hypot(u.abs() - 0.5, v) - 0.32).abs() - 0.1
    return union([ring, box(u, v, 0, -0.05, 0.2, 0.07)])


def crescent(u: Plane, v: Plane) -> Plane:
    return cut(disc(u, v, -0.05, 0, 0.85), disc(u, v, 0.38, -0.12, 0.7))


def ring(u: Plane, v: Plane) -> Plane:
    return (torch.hypot(u, v) - 0.62).abs() - 0.2


def cross(u: Plane, v: Plane) -> Plane:
    return union([box(u, v, 0, 0, 0.27, 0.85), box(u, v, 0, 0, 0.85, 0.27)])


def candle(u: Plane, v: Plane) -> Plane:
    return union(
        [
            box(u, v, 0, 0.42, 0.28, 0.5),
            torch.hypot(u * 1.7, v + 0.45) - 0.3,
            box(u, v, 0, -0.1, 0.04, 0.1),
        ]
    )


def hand(u: Plane, v: Plane) -> Plane:
    fingers = [box(u, v, x, -0.35, 0.09, 0.5) for x in (-0.4, -0.14, 0.12, 0.38)]
    return union(
        [
            box(u, v, 0, 0.4, 0.5, 0.42),
            *fingers,
            polygon(u, v, [(0.4, 0.5), (0.9, -0.15), (0.75, -0.25), (0.35, 0.15)]),
        ]
    )


SHAPES: dict[str, Silhouette] = {
    "circle": disc,
    "square": lambda u, v: box(u, v, 0, 0, 0.72, 0.72),
    "triangle": outline_of([(0, -0.85), (0.88, 0.7), (-0.88, 0.7)]),
    "diamond": outline_of([(0, -0.95), (0.7, 0), (0, 0.95), (-0.7, 0)]),
    "pentagon": regular(5),
    "octagon": regular(8, turn=math.pi / 8),
    "star": star(),
    "heart": heart,
    "cross": cross,
    "ring": ring,
    "moon": crescent,
    "arrow": outline_of(
        [
            (-0.9, -0.22),
            (0.15, -0.22),
            (0.15, -0.62),
            (0.92, 0),
            (0.15, 0.62),
            (0.15, 0.22),
            (-0.9, 0.22),
        ]
    ),
    "drop": drop,
    "cloud": cloud,
    "house": outline_of(
        [
            (-0.7, 0.85),
            (-0.7, -0.1),
            (-0.92, -0.1),
            (0, -0.9),
            (0.92, -0.1),
            (0.7, -0.1),
            (0.7, 0.85),
        ]
    ),
    "tree": tree,
    "fish": fish,
    "boat": boat,
    "umbrella": umbrella,
    "mushroom": mushroom,
    "key": key,
    "cup": cup,
    "flag": flag,
    "leaf": leaf,
    "bell": bell,
    "glasses": glasses,
    "candle": candle,
    "hand": hand,
    "crown": outline_of(
        [
            (-0.85, 0.65),
            (-0.9, -0.55),
            (-0.42, 0.0),
            (0, -0.75),
            (0.42, 0.0),
            (0.9, -0.55),
            (0.85, 0.65),
        ]
    ),
    "bolt": outline_of(
        [(0.25, -0.95), (-0.6, 0.15), (-0.1, 0.15), (-0.3, 0.95), (0.6, -0.2), (0.08, -0.2)]
    ),
    "mountain": outline_of([(-0.95, 0.7), (-0.3, -0.55), (0.05, 0.05), (0.35, -0.3), (0.95, 0.7)]),
    "hourglass": outline_of(
        [(-0.65, -0.85), (0.65, -0.85), (0.1, 0), (0.65, 0.85), (-0.65, 0.85), (-0.1, 0)]
    ),
}
SHAPE_NAMES = tuple(SHAPES)
