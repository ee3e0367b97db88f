"""Class-incremental learning: the classes of one data set, a block at a time.

A published class order permutes the classes; task k is the next block of them. After each task an
image is classified among all classes learned so far (`label_space="seen"`). One prompt. The test
set is the data set's official test or validation set; there is no validation set. Class names keep
their underscores. Images are tested with the evaluation transform (the official code tests with the
training transform, a random crop).

Source: the class-incremental parts of the official code of ZSCL (Zheng et al. 2023) and MoE-Adapters
(Yu et al. 2024); numbers in `splits/class_incremental.json`.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.streams.base import Reference, Task, TaskStream
from vlcl_toolkit.streams.full_size.imagenet import read_imagenet, read_tiny_imagenet
from vlcl_toolkit.streams.full_size.torchvision_sets import Listing, read_official
from vlcl_toolkit.streams.location import DataLocation, fingerprint
from vlcl_toolkit.streams.pictures import PictureData
from vlcl_toolkit.streams.splits import CLASS_INCREMENTAL, facts


def class_incremental_stream(
    name: str,
    location: DataLocation | None = None,
    reference: Callable[[], Reference] | None = None,
) -> TaskStream:
    """Load a class-incremental stream; its tasks are called "step01", "step02", ...

    Args:
        name: a key of `CLASS_INCREMENTAL`.
        location: where the files are and how they are read; None: defaults.
        reference: reference data of the stream, see `reference_source`.

    Raises:
        UserError: the set is missing or damaged, or its sizes differ from the published ones.
    """
    variant, location = CLASS_INCREMENTAL[name], location or DataLocation()
    known = facts("class_incremental")
    train, test, names = _read(variant.data_set, location)
    if location.verify:
        _check(variant.data_set, train, test, names, location.folder)
    order = known["orders"][variant.data_set]
    ends = [0, *range(variant.base, len(order) + 1, variant.increment)]
    tasks = tuple(
        _task(
            f"step{k:02}", order[start:end], names, train, test, known["prompts"][variant.data_set]
        )
        for k, (start, end) in enumerate(pairwise(ends), start=1)
    )
    verified = "" if location.verify else "-unverified"
    ready, skipped = location.prepare(tasks)
    return TaskStream(
        id=name,
        tasks=ready,
        split_id=f"{variant.data_set}{verified}-{fingerprint(tasks)}",
        reference=reference,
        skipped=skipped,
        label_space="seen",
    )


def class_names(data_set: str) -> tuple[str, ...]:
    """The published names of the classes of Tiny-ImageNet and the ImageNets, by label."""
    if data_set == "tinyimagenet":
        return tuple(facts("class_incremental")["tinyimagenet_names"])
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES[:100] if data_set == "imagenet100" else IMAGENET_CLASSNAMES)


def _read(data_set: str, location: DataLocation) -> tuple[Listing, Listing, tuple[str, ...]]:
    root, verify = location.folder, location.verify
    if data_set == "cifar100":
        train = read_official("CIFAR100", root, "train", verify=verify)
        return train, read_official("CIFAR100", root, "test", verify=verify), train.classes
    if data_set == "tinyimagenet":
        train, test = (read_tiny_imagenet(root, part) for part in ("train", "val"))
    else:
        wnids = facts("class_incremental")["imagenet100_wnids"]
        chosen = tuple(wnids) if data_set == "imagenet100" else None
        train, test = (read_imagenet(root, part, chosen) for part in ("train", "val"))
    return train, test, class_names(data_set)


def _task(
    name: str,
    classes: list[int],
    names: tuple[str, ...],
    train: Listing,
    test: Listing,
    prompt: str,
) -> Task:
    position = torch.full((len(names),), -1)
    position[classes] = torch.arange(len(classes))

    def block(listing: Listing) -> PictureData:
        labels = position[listing.labels]
        rows = (labels >= 0).nonzero()[:, 0]
        return PictureData(listing.pictures, labels[rows], rows)

    own = tuple(names[label] for label in classes)
    learned = block(train)
    return Task(name, own, (prompt,), learned, learned.subset([]), block(test))


def _check(
    data_set: str, train: Listing, test: Listing, names: tuple[str, ...], root: Path
) -> None:
    sizes = facts("class_incremental")["sizes"][data_set]
    for part, listing in (("train", train), ("test", test)):
        # How many training images ImageNet-100 has is nowhere published with the protocol.
        if sizes[part] is not None and len(listing.labels) != sizes[part]:
            raise UserError(
                f"{data_set} must have {sizes[part]} {part} images; the files in {root} have "
                f"{len(listing.labels)}; fetch the set again"
            )
        if len(listing.classes) != len(names):
            raise UserError(
                f"{data_set} must have {len(names)} classes; found {len(listing.classes)}"
            )
