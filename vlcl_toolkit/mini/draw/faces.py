"""Faces: a head with eyes, brows and a mouth that show an expression."""

from dataclasses import dataclass

import numpy as np
import torch

from vlcl_toolkit.mini.draw.canvas import Image, Plane, column, coverage, paint


@dataclass(frozen=True)
class Expression:
    """Mouth curvature (positive smiles), mouth opening, eye opening, and brow slant (positive is angry)."""

    curve: float
    mouth: float
    eyes: float
    brow: float


EXPRESSIONS: dict[str, Expression] = {
    "happy": Expression(0.9, 0.0, 1.0, 0.0),
    "sad": Expression(-0.9, 0.0, 0.9, -0.35),
    "angry": Expression(-0.7, 0.0, 0.8, 0.55),
    "surprised": Expression(0.0, 1.0, 1.5, -0.1),
    "sleepy": Expression(0.0, 0.45, 0.0, 0.0),
    "laughing": Expression(1.0, 0.8, 0.0, 0.0),
    "bored": Expression(0.0, 0.0, 0.45, 0.0),
    "grumpy": Expression(0.0, 0.0, 0.9, 0.6),
}
EXPRESSION_NAMES = tuple(EXPRESSIONS)


def draw_expressions(
    rng: np.random.Generator,
    image: Image,
    which: np.ndarray,
    u: Plane,
    v: Plane,
    scale: np.ndarray,
    ink: np.ndarray,
) -> Image:
    """Paint eyes, brows and mouth of the expressions ``which`` [n] in local coordinates (the head has radius 0.8)."""
    n = len(which)
    table = np.array([[e.curve, e.mouth, e.eyes, e.brow] for e in EXPRESSIONS.values()])
    curve, mouth, eyes, brow = (table[which] + rng.normal(0, 0.06, (n, 4))).T
    curve, mouth, eyes, brow = (
        column(curve),
        column(mouth.clip(0)),
        column(eyes.clip(0)),
        column(brow),
    )
    side = u.abs()
    eye = torch.hypot((side - 0.31) / 0.13, (v + 0.2) / (0.05 + 0.12 * eyes)) - 1
    lid = eye * 0.12
    slant = v + 0.47 + brow * (0.31 - side)
    brows = torch.maximum(slant.abs() - 0.045, (side - 0.31).abs() - 0.17)
    arc = v - 0.36 + curve * 0.55 * (u**2 - 0.1)
    lips = torch.maximum(arc.abs() - 0.055, u.abs() - 0.4)
    opening = (torch.hypot(u / 0.24, (v - 0.42) / (0.02 + 0.22 * mouth)) - 1) * 0.2
    open_mouth = torch.where(mouth > 0.25, opening, torch.ones_like(opening))
    # A round open mouth replaces flat lips.
    lips = torch.where(mouth > 0.25, lips + (curve.abs() < 0.3), lips)
    features = torch.minimum(torch.minimum(lid, brows), torch.minimum(lips, open_mouth))
    return paint(image, coverage(features, scale), ink)
