"""What is published about full-size streams: their names and variants, and the facts of the JSON files here.

mtil.json: the eleven data sets of MTIL. class_incremental.json: class orders, prompts and names.
Each names its sources. Nothing here imports torch.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

SPLITS = ("train", "validation", "test")
Split = Literal["zscl", "coop"]


@dataclass(frozen=True)
class MtilVariant:
    """A variant of MTIL.

    Attributes:
        order: key of the orders in `mtil.json`. `shots`: training images per class; None: all.
        split: that the protocol was published with.
    """

    order: str = "I"
    shots: int | None = None
    split: Split = "zscl"


MTIL = {
    "mtil": MtilVariant(),
    "mtil-II": MtilVariant("II"),
    "mtil-5shot": MtilVariant(shots=5),  # MoE-Adapters: all eleven sets
    "mtil-II-5shot": MtilVariant("II", shots=5),
    "mtil-16shot": MtilVariant(
        "16-shot", shots=16, split="coop"
    ),  # DIKI: eight sets, 4 to validate
    "mtil-16shot-eleven": MtilVariant(shots=16, split="coop"),  # DPW: all of them
}

XTAIL = {
    "xtail-16shot": MtilVariant("xtail", shots=16, split="coop"),
    "xtail-II-16shot": MtilVariant("xtail-II", shots=16, split="coop"),
    "xtail": MtilVariant("xtail", split="coop"),
    "xtail-II": MtilVariant("xtail-II", split="coop"),
}


@dataclass(frozen=True)
class ClassIncrementalVariant:
    """How a data set is cut into tasks of classes.

    Attributes:
        data_set: key of the facts. `base`: classes of the first task; `increment`: of each other.
    """

    data_set: str
    base: int
    increment: int


CLASS_INCREMENTAL = {
    "cifar100-10": ClassIncrementalVariant("cifar100", 10, 10),
    "cifar100-20": ClassIncrementalVariant("cifar100", 5, 5),
    "cifar100-50": ClassIncrementalVariant("cifar100", 2, 2),
    "tinyimagenet-5": ClassIncrementalVariant("tinyimagenet", 100, 20),  # 100 classes, then 5 tasks
    "tinyimagenet-10": ClassIncrementalVariant("tinyimagenet", 100, 10),
    "tinyimagenet-20": ClassIncrementalVariant("tinyimagenet", 100, 5),
    "imagenet100-10": ClassIncrementalVariant("imagenet100", 10, 10),
    "imagenet100-b50-10": ClassIncrementalVariant(
        "imagenet100", 50, 5
    ),  # 50 classes, then 10 tasks
    "imagenet1000-10": ClassIncrementalVariant("imagenet1000", 100, 100),
}


@lru_cache(maxsize=4)
def facts(name: str) -> dict[str, Any]:
    """The content of `<name>.json`."""
    return json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))
