"""CoOp's split (Zhou et al. 2022), which DIKI uses: training, validation and test images.

Eight data sets take CoOp's split files, Aircraft its three official parts, CIFAR100 and MNIST their
official test set and a random split of the training set by class (`split_80_20`), made once, with a
seed of the data set's own. The official DIKI code splits these two three times and so trains on
most validation images; that leak is not reproduced.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.seeds import derive_seed
from vlcl_toolkit.streams.full_size.sources import require, require_coop
from vlcl_toolkit.streams.full_size.torchvision_sets import read_official
from vlcl_toolkit.streams.pictures import FilePictures, PictureData

Parts = tuple[PictureData, PictureData, PictureData]
"""Training, validation, test."""

# What the paths in a split file are relative to: torchvision's layout, else CoOp's and DIKI's, or an archive as
# some hosts name it.
_BASES = {
    "Caltech101": ("caltech101/101_ObjectCategories", "caltech-101/101_ObjectCategories"),
    "DTD": ("dtd/dtd/images", "dtd/images"),
    "EuroSAT": ("eurosat/2750", "eurosat/EuroSAT_RGB", "EuroSAT_RGB"),
    "Flowers": ("flowers-102/jpg", "oxford_flowers/jpg"),
    "Food": ("food-101/images", "food-101/food-101/images"),
    "OxfordPet": ("oxford-iiit-pet/images", "oxford_pets/images"),
    "StanfordCars": ("stanford_cars",),
    "SUN397": ("SUN397", "sun397/SUN397"),
}
_SEED = 42


def read_coop(name: str, root: Path, *, verify: bool = True) -> tuple[Parts, tuple[str, ...]]:
    """The three parts and the class names of a data set of MTIL.

    Args:
        name: as in `mtil.json`. `verify`: as in `read_official`.

    Raises:
        UserError: a file is missing or damaged.
    """
    if name in _BASES:
        return _split_file(name, root)
    train = read_official(name, root, "train", verify=verify)
    test = read_official(name, root, "test", verify=verify).data
    if name == "Aircraft":
        validation = read_official(name, root, "val", verify=verify).data
        return (train.data, validation, test), train.classes
    rng = random.Random(derive_seed("coop", name, _SEED))
    learned, held = split_80_20(train.labels.tolist(), rng)
    return (train.data.subset(learned), train.data.subset(held), test), train.classes


def coop_images(name: str, root: Path) -> Path | None:
    """The folder of a set's images in any of the known layouts; None: there is none."""
    there = [root / base for base in _BASES.get(name, ()) if (root / base).is_dir()]
    return there[0] if there else None


def _split_file(name: str, root: Path) -> tuple[Parts, tuple[str, ...]]:
    path, base = require_coop(name, root), coop_images(name, root)
    if base is None:
        require(name, root)
        base = root / _BASES[name][0]
    names: dict[int, str] = {}
    parts = []
    for part in ("train", "val", "test"):
        paths, labels = [], []
        for file, label, class_name in _entries(path, part):
            if names.setdefault(label, class_name) != class_name:
                raise UserError(
                    f"{path} calls label {label} both {names[label]!r} and {class_name!r}; "
                    "fetch it again"
                )
            paths.append(file)
            labels.append(label)
        pictures = FilePictures(base, paths)
        parts.append(PictureData(pictures, torch.tensor(labels, dtype=torch.int64)))
    if sorted(names) != list(range(len(names))):
        raise UserError(f"labels in {path} must be 0..{len(names) - 1}; fetch it again")
    train, validation, test = parts
    return (train, validation, test), tuple(names[label] for label in range(len(names)))


def _entries(path: Path, part: str) -> list[tuple[str, int, str]]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return [(str(file), int(label), str(name)) for file, label, name in content[part]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not have the form {{'train': [[file, label, class name], ...], 'val': "
            f"..., 'test': ...}} ({type(error).__name__}: {error}); fetch it again"
        ) from error


def split_80_20(labels: Sequence[int], rng: random.Random) -> tuple[list[int], list[int]]:
    """Indices of the training and the validation images of a set that comes without validation.

    Class by class, in order of first appearance: shuffle, then the first round(0.2 n) validate
    (halves round to even).

    Args:
        rng: the official code has one for all sets, seeded with 42 before the first. It splits each
            set three times (for training, validation, test) and takes the training images of the
            first split and the validation images of the second, so that most validation images are
            trained on. One call, both parts from it, has no such leak.
    """
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        by_class.setdefault(label, []).append(index)
    train: list[int] = []
    validation: list[int] = []
    for members in by_class.values():
        rng.shuffle(members)
        cut = round(0.2 * len(members))
        validation += members[:cut]
        train += members[cut:]
    return train, validation
