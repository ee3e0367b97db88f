"""Class prompts, run-time splits and few-shot draws of the official DIKI code.

One template per data set, its label files, and the random divisions that its numbers rest on. The
divisions follow Python's `random` draw by draw, so that a seed gives the official indices.
"""

import random
from collections.abc import Sequence

from vlcl_toolkit.errors import unknown_name

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
