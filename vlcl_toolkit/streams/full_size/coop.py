"""The division of CoOp (Zhou et al. 2022), which DIKI uses: training, validation and test images.

Eight data sets take CoOp's split files, Aircraft its official three parts, CIFAR100 and MNIST their
official test set and a division of the training set by class (`split_80_20`), drawn once with a
seed of the data set's own. The official DIKI code draws these two three times and so trains on most
validation images; that leak is not carried over.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.seeds import derive_seed
from vlcl_toolkit.streams.full_size.sources import SOURCES, require, require_coop
from vlcl_toolkit.streams.full_size.torchvision_sets import read_official
from vlcl_toolkit.streams.pictures import FilePictures, PictureData

Parts = tuple[PictureData, PictureData, PictureData]
"""Training, validation, test."""

# What the paths in a split file are relative to.
_BASE = {
    "Caltech101": "caltech101/101_ObjectCategories",
    "DTD": "dtd/dtd/images",
    "EuroSAT": "eurosat/2750",
    "Flowers": "flowers-102/jpg",
    "Food": "food-101/images",
    "OxfordPet": "oxford-iiit-pet/images",
    "StanfordCars": "stanford_cars",
    "SUN397": "SUN397",
}
_SEED = 42


def read_coop(name: str, root: Path, *, verify: bool = True) -> tuple[Parts, tuple[str, ...]]:
    """The three parts and the class names of a data set of MTIL.

    Args:
        name: as in `mtil.json`. `verify`: as in `read_official`.

    Raises:
        UserError: a file is missing or damaged.
    """
    if name in _BASE:
        return _split_file(name, root)
    train = read_official(name, root, "train", verify=verify)
    test = read_official(name, root, "test", verify=verify).data
    if name == "Aircraft":
        validation = read_official(name, root, "val", verify=verify).data
        return (train.data, validation, test), train.classes
    draw = random.Random(derive_seed("coop", name, _SEED))
    learned, held = split_80_20(train.labels.tolist(), draw)
    return (train.data.subset(learned), train.data.subset(held), test), train.classes


def _split_file(name: str, root: Path) -> tuple[Parts, tuple[str, ...]]:
    path = require_coop(name, root)
    if not (root / _BASE[name]).is_dir():
        require(name, root)
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
        pictures = FilePictures(root / _BASE[name], paths)
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


def coop_folder(name: str) -> str:
    """Folder of the images of a set's split file, relative to the data folder."""
    return _BASE.get(name, SOURCES[name].folder)


TEMPLATES = {
    "Caltech101": "a photo of a {}.",
    "OxfordPets": "a photo of a {}, a type of pet.",
    "StanfordCars": "a photo of a {}, a type of car.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "Food101": "a photo of a {}, a type of food.",
    "SUN397": "a photo of a {}.",
    "DescribableTextures": "a photo of a {} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "CIFAR100": "a photo of a {}.",
    "MNIST": 'a photo of the number: "{}".',
}
"""By the official name of the data set."""


def prompt(template: str, class_name: str) -> str:
    """The template with the class name; every `_` of the text is read as a space."""
    return template.format(class_name).replace("_", " ")


def class_prompts(dataset: str, class_names: Sequence[str]) -> list[str]:
    """The official prompt of each class.

    Args:
        dataset: a key of `TEMPLATES`.

    Raises:
        UserError: unknown data set.
    """
    if dataset not in TEMPLATES:
        raise unknown_name("data set", dataset, TEMPLATES)
    return [prompt(TEMPLATES[dataset], name) for name in class_names]


def split_80_20(labels: Sequence[int], rng: random.Random) -> tuple[list[int], list[int]]:
    """Indices of the training and the validation images of a set that comes without validation.

    Class by class, in order of first appearance: shuffle, then the first round(0.2 n) validate
    (halves round to even).

    Args:
        rng: the official code has one for all sets, seeded with 42 before the first. It splits each
            set three times (for training, validation, test) and takes the training images of the
            first draw and the validation images of the second, so that most validation images are
            trained on. One call, both parts from it, has no such leak.
    """
    train: list[int] = []
    validation: list[int] = []
    for members in _by_class(range(len(labels)), labels).values():
        rng.shuffle(members)
        cut = round(0.2 * len(members))
        validation += members[:cut]
        train += members[cut:]
    return train, validation


def draw_shots(
    indices: Sequence[int], labels: Sequence[int], shots: int, rng: random.Random
) -> list[int]:
    """`shots` random images per class out of `indices`; all of a class that has fewer.

    The official few-shot stream draws 16 training and then min(16, 4) validation images per class.

    Args:
        labels: of the whole set; `labels[i]` belongs to image i.
    """
    drawn: list[int] = []
    for members in _by_class(indices, labels).values():
        drawn += rng.sample(members, shots) if len(members) >= shots else members
    return drawn


def _by_class(indices: Sequence[int], labels: Sequence[int]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for index in indices:
        groups.setdefault(labels[index], []).append(index)
    return groups
