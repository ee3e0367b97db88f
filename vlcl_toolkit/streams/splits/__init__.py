"""Which image belongs where: published facts as JSON, and random splits.

mtil.json: the eleven data sets of MTIL. class_incremental.json: class orders, prompts and names.
Each names its sources.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from vlcl_toolkit.streams.base import Task
from vlcl_toolkit.streams.pictures import FilePictures, PictureData

SPLITS = ("train", "validation", "test")


@lru_cache(maxsize=4)
def facts(name: str) -> dict[str, Any]:
    """The content of `<name>.json`."""
    return json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))


def random_80_20(count: int) -> tuple[Int64[Tensor, " train"], Int64[Tensor, " test"]]:
    """Training and test rows of a data set without official parts, as in ZSCL's code.

    floor(0.8 n) rows train, the rest test: `random_split` of the data-set order with seed 42.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(42))
    size = int(0.8 * count)
    return order[:size], order[size:]


def fingerprint(tasks: Iterable[Task]) -> str:
    """Eight hexadecimal digits of a hash of who is in which split with which label.

    File names and labels count, pixels do not; the order of the tasks does not.
    """
    digests = []
    for task in tasks:
        digest = hashlib.sha256("\n".join((task.name, *task.class_names)).encode())
        for split in SPLITS:
            data = getattr(task, split)
            digest.update(data.labels.numpy().tobytes())
            rows = data.rows.tolist() if isinstance(data, PictureData) else []
            pictures = data.pictures if isinstance(data, PictureData) else None
            if isinstance(pictures, FilePictures):
                text = "\n".join(pictures.paths[row] for row in rows)
                digest.update(text.encode(errors="surrogateescape"))
            else:
                digest.update(str(rows).encode())
        digests.append(digest.hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:8]
