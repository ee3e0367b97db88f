"""Printed characters: an atlas of digits and letters in the fonts that matplotlib bundles, placed and distorted."""

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vlcl_toolkit.mini.draw.canvas import SIZE, Plane, column, grid, local_coordinates

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "cmr10",
    "cmb10",
    "cmss10",
    "cmtt10",
)
DIGITS = "0123456789"
CHARACTERS = DIGITS + "ABCDEFGHIJKLMNOPQRSTUVWXYZ!?"


@lru_cache(maxsize=1)
def atlas() -> Float[Tensor, "fonts characters h w"]:
    """Coverage of every character in every font, scaled to the same height and centred."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    planes = np.zeros((len(FONTS), len(CHARACTERS), SIZE, SIZE), dtype=np.float32)
    for i, name in enumerate(FONTS):
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), 48)
        for j, character in enumerate(CHARACTERS):
            left, top, right, bottom = font.getbbox(character)
            glyph = Image.new("L", (int(right - left), int(bottom - top)))
            ImageDraw.Draw(glyph).text((-left, -top), character, fill=255, font=font)
            height = SIZE - 4
            width = min(SIZE - 2, max(1, round(glyph.width * height / glyph.height)))
            scaled = np.asarray(glyph.resize((width, height), Image.Resampling.BILINEAR)) / 255
            x = (SIZE - width) // 2
            planes[i, j, 2 : 2 + height, x : x + width] = scaled
    return torch.from_numpy(planes)


def draw_characters(
    characters: np.ndarray,
    fonts: np.ndarray,
    *,
    centre_x: np.ndarray | float = 0.0,
    centre_y: np.ndarray | float = 0.0,
    scale: np.ndarray | float = 0.7,
    stretch: np.ndarray | float = 1.0,
    slant: np.ndarray | float = 0.0,
    angle: np.ndarray | float = 0.0,
    bend: tuple[Plane, Plane] | None = None,
) -> Plane:
    """Coverage [n, h, w] of one character per image; ``bend`` replaces the pixel grid by a warped one."""
    x, y = bend if bend is not None else grid()
    u, v = local_coordinates(x, y, centre_x=centre_x, centre_y=centre_y, scale=scale, angle=angle)
    u = (u + column(np.atleast_1d(slant)) * v) / column(np.atleast_1d(stretch))
    n = len(characters)
    where = torch.stack((u.expand(n, -1, -1), v.expand(n, -1, -1)), dim=-1)
    planes = atlas()[torch.from_numpy(fonts), torch.from_numpy(characters)].unsqueeze(1)
    return F.grid_sample(planes, where, align_corners=False)[:, 0]
