"""MTIL: eleven data sets, one after another, in two published orders and two published divisions.

"zscl": the official parts as ZSCL (Zheng et al. 2023) and MoE-Adapters (Yu et al. 2024) use them;
sets that come undivided are split 80/20 with seed 42; there is no validation. 1201 classes, the
whole prompt ensemble. (SUN397's file order is sorted here, which the authors' was not: its split
cannot equal theirs.) "coop": CoOp's splits, as DIKI (Tang et al. 2024) uses them; 1200 classes, one
template. The test sets differ for 8 of 11 data sets: never compare numbers across the two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.streams.base import Reference, Task, TaskStream
from vlcl_toolkit.streams.full_size.coop import Parts, read_coop
from vlcl_toolkit.streams.full_size.torchvision_sets import read_official
from vlcl_toolkit.streams.location import DataLocation
from vlcl_toolkit.streams.splits import SPLITS, facts, fingerprint, random_80_20

Split = Literal["zscl", "coop"]
# Official parts: training and test, or all images to be divided.
_PARTS = {"OxfordPet": ("trainval", "test")}
_UNDIVIDED = ("Caltech101", "EuroSAT", "SUN397")


@dataclass(frozen=True)
class Variant:
    """What a name of `load_stream` stands for.

    Attributes:
        order: key of the orders in `mtil.json`. `shots`: training images per class; None: all.
        split: the division that the protocol was published with.
    """

    order: str = "I"
    shots: int | None = None
    split: Split = "zscl"


VARIANTS = {
    "mtil": Variant(),
    "mtil-II": Variant("II"),
    "mtil-5shot": Variant(shots=5),  # MoE-Adapters: all eleven sets
    "mtil-II-5shot": Variant("II", shots=5),
    "mtil-16shot": Variant("16-shot", shots=16, split="coop"),  # DIKI: eight sets, 4 to validate
}


def mtil_names() -> tuple[str, ...]:
    """The eleven data sets in order I."""
    return tuple(facts("mtil")["orders"]["I"])


def mtil_stream(
    name: str = "mtil",
    material: DataLocation | None = None,
    *,
    split: str | None = None,
    sets: Sequence[str] | None = None,
    seed: int = 0,
    reference: Callable[[], Reference] | None = None,
) -> TaskStream:
    """Load MTIL.

    The stream's id tells the division and the shots ("mtil", "mtil-5shot", "mtil-coop-16shot"), not
    the order, which every record has anyway. The split id ends in a fingerprint of all file
    names and labels; "unverified" in it says that sizes were not those published.

    Args:
        name: a key of `VARIANTS`.
        material: where the files are and how they are read; None: defaults.
        split: "zscl" or "coop"; None: as published for `name`.
        sets: only these data sets, in the order of `name`.
        seed: of the few-shot draw.
        reference: reference material of the stream, see `reference.py`.

    Raises:
        UserError: a set is missing or damaged, or its sizes differ from the published ones.
    """
    variant, material = VARIANTS[name], material or DataLocation()
    if split not in (None, "zscl", "coop"):
        raise unknown_name("split", split, ("zscl", "coop"))
    division = variant.split if split is None else cast(Split, split)
    order = facts("mtil")["orders"][variant.order]
    for wanted in sets or ():
        if wanted not in order:
            raise unknown_name("data set of MTIL", wanted, order)
    tasks = [mtil_task(n, material, division) for n in order if sets is None or n in sets]
    verified = "" if material.verify else "-unverified"
    stream = TaskStream(
        id="mtil" if division == "zscl" else "mtil-coop",
        tasks=tuple(tasks),
        split_id=f"mtil-{division}{verified}-{fingerprint(tasks)}",
        reference=reference,
    )
    if variant.shots is not None:
        stream = stream.few_shot(variant.shots, seed)
    ready, skipped = material.prepare(stream.tasks)
    return replace(stream, tasks=ready, skipped=skipped)


def mtil_task(name: str, material: DataLocation, split: Split = "zscl") -> Task:
    """One data set of MTIL as a task."""
    known = facts("mtil")["data_sets"][name]
    if split == "coop":
        parts, class_names = read_coop(name, material.root, verify=material.verify)
        # The official code replaces every "_" of a prompt; no template has one.
        class_names = tuple(text.replace("_", " ") for text in class_names)
        templates = known["templates"][:1]
        count = known["coop_classes"]
    else:
        parts, class_names = _zscl_parts(name, material)
        class_names = tuple(known["class_names"] or class_names)
        if known["underscore_to_space"]:
            class_names = tuple(text.replace("_", " ") for text in class_names)
        templates, count = known["templates"], known["classes"]
    if material.verify:
        _check_sizes(name, split, parts, known["sizes"][split], material.root)
        if len(class_names) != count:
            raise UserError(f"{name} must have {count} classes; found {len(class_names)}")
    return Task(name, class_names, tuple(templates), *parts)


def _zscl_parts(name: str, material: DataLocation) -> tuple[Parts, tuple[str, ...]]:
    root, verify = material.root, material.verify
    if name in _UNDIVIDED:
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
