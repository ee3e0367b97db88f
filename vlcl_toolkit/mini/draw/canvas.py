"""Drawing in batches: coordinates, coverage, paint, smooth noise and camera effects.

Everything works on a whole batch of images at once. Coordinates run from -1 (left, top) to 1 (right, bottom); a
drawing is a signed distance (negative inside), turned into an anti-aliased coverage between 0 and 1, and painted over
a float image in [0, 1].

Shape legend: n images, h rows, w columns (h = w = SIZE).
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SIZE = 40  # pixels per side of every miniature image

Plane = Float[Tensor, "n h w"]
Image = Float[Tensor, "n 3 h w"]


def column(values: np.ndarray) -> Float[Tensor, "n 1 1"]:
    """One number per image, ready to broadcast over its pixels."""
    return torch.as_tensor(np.asarray(values), dtype=torch.float32).reshape(-1, 1, 1)


def grid() -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "1 h w"]]:
    """x and y of every pixel centre, in [-1, 1]."""
    axis = (torch.arange(SIZE) + 0.5) * (2 / SIZE) - 1
    return axis.view(1, 1, SIZE).expand(1, SIZE, SIZE), axis.view(1, SIZE, 1).expand(1, SIZE, SIZE)


def local_coordinates(
    x: Tensor,
    y: Tensor,
    *,
    centre_x: np.ndarray | float = 0.0,
    centre_y: np.ndarray | float = 0.0,
    scale: np.ndarray | float = 1.0,
    angle: np.ndarray | float = 0.0,
) -> tuple[Plane, Plane]:
    """Coordinates in the frame of an object placed at a centre, with a scale and an angle (radians), per image."""
    x, y = x - column(np.atleast_1d(centre_x)), y - column(np.atleast_1d(centre_y))
    cos, sin = column(np.cos(np.atleast_1d(angle))), column(np.sin(np.atleast_1d(angle)))
    size = column(np.atleast_1d(scale))
    return (cos * x + sin * y) / size, (cos * y - sin * x) / size


def coverage(distance: Plane, scale: np.ndarray | float = 1.0) -> Plane:
    """Anti-aliased coverage in [0, 1] of the inside of a signed distance measured in local coordinates."""
    pixels = column(np.atleast_1d(scale)) * (SIZE / 2)
    return (0.5 - distance * pixels).clamp(0, 1)


def fill(colour: np.ndarray) -> Image:
    """A plain image of one colour [n, 3] (values in [0, 1]) per image."""
    return (
        torch.as_tensor(colour, dtype=torch.float32)
        .view(-1, 3, 1, 1)
        .expand(-1, 3, SIZE, SIZE)
        .clone()
    )


def paint(image: Image, mask: Plane, colour: np.ndarray | Float[Tensor, "n 3 #h #w"]) -> Image:
    """Lay a colour [n, 3], or another image, over ``image`` where ``mask`` covers it."""
    top = (
        colour
        if isinstance(colour, Tensor)
        else torch.as_tensor(colour, dtype=torch.float32).view(-1, 3, 1, 1)
    )
    return torch.lerp(image, top.expand_as(image), mask.unsqueeze(1))


def by_kind(kinds: np.ndarray, table: Mapping[str, Callable[..., Plane]], *planes: Tensor) -> Plane:
    """Evaluate for each image the ``kinds``-th function of the table; images of one kind together."""
    functions = tuple(table.values())
    result = torch.empty(len(kinds), SIZE, SIZE)
    for kind in np.unique(kinds):
        rows = torch.from_numpy(np.flatnonzero(kinds == kind))
        result[rows] = functions[kind](*(plane[rows] for plane in planes))
    return result


def smooth_noise(
    rng: np.random.Generator, n: int, cells: int, channels: int = 1
) -> Float[Tensor, "n c h w"]:
    """Noise in [0, 1] that varies over about ``cells`` cells per side."""
    coarse = torch.from_numpy(rng.random((n, channels, cells + 1, cells + 1), dtype=np.float32))
    return F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=True).clamp(0, 1)


def warp(
    rng: np.random.Generator, x: Tensor, y: Tensor, n: int, strength: np.ndarray, cells: int = 3
) -> tuple[Plane, Plane]:
    """Bend the coordinate grid by smooth noise; ``strength`` [n] in units of half the image."""
    bend = smooth_noise(rng, n, cells, 2) - 0.5
    return x + column(strength) * bend[:, 0], y + column(strength) * bend[:, 1]


def blur(image: Image, radius: np.ndarray) -> Image:
    """Mix each image with a 5 x 5 binomial blur of it; ``radius`` [n] in [0, 1] is the share of the blurred one."""
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    padded = F.pad(image, (2, 2, 2, 2), mode="replicate")
    rows = sum(tap * padded[:, :, :, i : i + SIZE] for i, tap in enumerate(taps))
    soft = sum(tap * rows[:, :, i : i + SIZE] for i, tap in enumerate(taps))
    return torch.lerp(image, soft, column(radius).unsqueeze(1))


def grain(rng: np.random.Generator, image: Image, sigma: np.ndarray) -> Image:
    """Add pixel noise; ``sigma`` [n] is its standard deviation."""
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
    return image + column(sigma).unsqueeze(1) * noise


def illuminate(rng: np.random.Generator, image: Image, strength: np.ndarray) -> Image:
    """Multiply by a linear light gradient of random direction; ``strength`` [n] is its relative amplitude."""
    x, y = grid()
    angle = rng.uniform(0, 2 * math.pi, len(image))
    ramp = x * column(np.cos(angle)) + y * column(np.sin(angle))
    return image * (1 + column(strength) * ramp).unsqueeze(1)


def tone(
    image: Image, contrast: np.ndarray, brightness: np.ndarray, saturation: np.ndarray
) -> Image:
    """Scale saturation and contrast around mid-grey and shift the brightness, each [n]."""
    grey = image.mean(dim=1, keepdim=True)
    image = torch.lerp(grey.expand_as(image), image, column(saturation).unsqueeze(1))
    return (image - 0.5) * column(contrast).unsqueeze(1) + 0.5 + column(brightness).unsqueeze(1)


def to_bytes(image: Image) -> Tensor:
    """Round a float image to uint8 [n, 3, h, w]."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)
