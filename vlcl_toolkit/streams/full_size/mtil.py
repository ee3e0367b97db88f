"""MTIL: eleven data sets, one after another, in two published orders and two published splits.

"zscl": the official parts as ZSCL (Zheng et al. 2023) and MoE-Adapters (Yu et al. 2024) use them;
sets without official parts are split 80/20 with seed 42; no validation images. 1201 classes, the
whole prompt ensemble. (SUN397's files are sorted here, the authors' were not: its split cannot
equal theirs.) "coop": CoOp's splits, as DIKI (Tang et al. 2024) uses them; 1200 classes, one
template. The test sets differ for 8 of 11 data sets: never compare numbers across the two.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Int64
from torch import Tensor

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.streams.base import Reference, Task, TaskStream
from vlcl_toolkit.streams.full_size.coop import Parts, read_coop
from vlcl_toolkit.streams.full_size.torchvision_sets import read_official
from vlcl_toolkit.streams.location import DataLocation, fingerprint
from vlcl_toolkit.streams.splits import MTIL, SPLITS, Split, facts

# Official parts for training and test, where they are not "train" and "test".
_PARTS = {"OxfordPet": ("trainval", "test")}
_WITHOUT_PARTS = ("Caltech101", "EuroSAT", "SUN397")


def mtil_names() -> tuple[str, ...]:
    """The eleven data sets in order I."""
    return tuple(facts("mtil")["orders"]["I"])


def mtil_stream(
    name: str = "mtil",
    location: DataLocation | None = None,
    *,
    split: str | None = None,
    sets: Sequence[str] | None = None,
    seed: int = 0,
    reference: Callable[[], Reference] | None = None,
) -> TaskStream:
    """Load MTIL.

    The stream's id names the split and the shots ("mtil", "mtil-5shot", "mtil-coop-16shot"), not
    the order, which every record has anyway. The split id ends in a fingerprint of all file
    names and labels; "unverified" in it says that sizes were not those published.

    Args:
        name: a key of `MTIL`.
        location: where the files are and how they are read; None: defaults.
        split: "zscl" or "coop"; None: as published for `name`.
        sets: only these data sets, in the order of `name`.
        seed: of the few-shot sampling.
        reference: reference data of the stream, see `reference_source`.

    Raises:
        UserError: a set is missing or damaged, or its sizes differ from the published ones.
    """
    variant, location = MTIL[name], location or DataLocation()
    if split not in (None, "zscl", "coop"):
        raise unknown_name("split", split, ("zscl", "coop"))
    chosen = variant.split if split is None else cast(Split, split)
    order = chosen_sets(facts("mtil")["orders"][variant.order], sets)
    tasks = [mtil_task(data_set, location, chosen) for data_set in order]
    verified = "" if location.verify else "-unverified"
    stream = TaskStream(
        id="mtil" if chosen == "zscl" else "mtil-coop",
        tasks=tuple(tasks),
        split_id=f"mtil-{chosen}{verified}-{fingerprint(tasks)}",
        reference=reference,
    )
    if variant.shots is not None:
        stream = stream.few_shot(variant.shots, seed)
    ready, skipped = location.prepare(stream.tasks)
    return replace(stream, tasks=ready, skipped=skipped)


def chosen_sets(order: Sequence[str], sets: Sequence[str] | None) -> list[str]:
    """The data sets of an order that were asked for; None: all.

    Raises:
        UserError: one of `sets` is not in `order`.
    """
    for wanted in sets or ():
        if wanted not in order:
            raise unknown_name("data set", wanted, order)
    return [name for name in order if sets is None or name in sets]


def mtil_task(name: str, location: DataLocation, split: Split = "zscl") -> Task:
    """One data set of MTIL as a task."""
    known = facts("mtil")["data_sets"][name]
    if split == "coop":
        parts, class_names = read_coop(name, location.folder, verify=location.verify)
        # The official code replaces every "_" of a prompt; no template has one.
        class_names = tuple(text.replace("_", " ") for text in class_names)
        templates = known["templates"][:1]
        count = known["coop_classes"]
    else:
        parts, class_names = _zscl_parts(name, location)
        class_names = tuple(known["class_names"] or class_names)
        if known["underscore_to_space"]:
            class_names = tuple(text.replace("_", " ") for text in class_names)
        templates, count = known["templates"], known["classes"]
    if location.verify:
        _check_sizes(name, split, parts, known["sizes"][split], location.folder)
        if len(class_names) != count:
            raise UserError(f"{name} must have {count} classes; found {len(class_names)}")
    return Task(name, class_names, tuple(templates), *parts)


def _zscl_parts(name: str, location: DataLocation) -> tuple[Parts, tuple[str, ...]]:
    root, verify = location.folder, location.verify
    if name in _WITHOUT_PARTS:
        listing = read_official(name, root, "all", verify=verify)
        train_rows, test_rows = random_80_20(len(listing.labels))
        train, test = listing.data.subset(train_rows), listing.data.subset(test_rows)
        classes = listing.classes
    else:
        train_part, test_part = _PARTS.get(name, ("train", "test"))
        listing = read_official(name, root, train_part, verify=verify)
        train, classes = listing.data, listing.classes
        test = read_official(name, root, test_part, verify=verify).data
    return (train, train.subset([]), test), classes


def _check_sizes(
    name: str, split: Split, parts: Parts, expected: dict[str, int], root: Path
) -> None:
    for part, data in zip(SPLITS, parts, strict=True):
        if len(data) != expected[part]:
            raise UserError(
                f"{name} (split {split!r}) must have {expected[part]} {part} images; the files in "
                f"{root} list {len(data)}; run `vlcl data check --root {root} --sets {name}`"
            )


def random_80_20(count: int) -> tuple[Int64[Tensor, " train"], Int64[Tensor, " test"]]:
    """Training and test rows of a data set without official parts, as in ZSCL's code.

    floor(0.8 n) rows train, the rest test: `random_split` of the data-set order with seed 42.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(42))
    size = int(0.8 * count)
    return order[:size], order[size:]
