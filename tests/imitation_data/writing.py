"""Images and files of imitations. The colour of an image tells its label."""

import json
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

SIZE = (20, 16)


def colour(label: int) -> tuple[int, int, int]:
    """A colour for each label below 1000: its decimal digits are red, green and blue."""
    return 20 + label % 10 * 24, 20 + label // 10 % 10 * 24, 20 + label // 100 * 24


def label_of(pixels: UInt8[np.ndarray, "h w 3"]) -> int:
    """The label that the mean colour stands for."""
    digits = np.rint((pixels.reshape(-1, 3).mean(axis=0) - 20) / 24).astype(int)
    return int(digits @ [1, 10, 100])


def write_image(path: Path, label: int, *, grey: bool = False) -> None:
    """A JPEG file of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", SIZE, colour(label))
    (image.convert("L") if grey else image).save(path, format="JPEG", quality=95)


def write_text(path: Path, lines: list[str]) -> None:
    """A text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
