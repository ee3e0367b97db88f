"""`vlcl data check`: compare the data folder with what was published."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.streams.base import Task
from vlcl_toolkit.streams.full_size.class_incremental import class_names
from vlcl_toolkit.streams.full_size.coop import coop_images
from vlcl_toolkit.streams.full_size.imagenet import read_imagenet, read_tiny_imagenet
from vlcl_toolkit.streams.full_size.mtil import Split, mtil_names, mtil_task
from vlcl_toolkit.streams.full_size.sources import SOURCES, missing, wrong_checksums
from vlcl_toolkit.streams.full_size.torchvision_sets import Listing
from vlcl_toolkit.streams.location import DataLocation
from vlcl_toolkit.streams.pictures import (
    ArrayPictures,
    PictureData,
    Pictures,
    is_stray,
    unreadable,
)
from vlcl_toolkit.streams.splits import SPLITS, facts

OTHERS = ("TinyImageNet", "ImageNet")


@dataclass(frozen=True)
class Finding:
    """Result of one check of a data set.

    Attributes:
        data_set, aspect: e.g. "Food", "images".
        good: nothing is wrong. `text`: one line.
    """

    data_set: str
    aspect: str
    good: bool
    text: str


def check_data(
    root: Path,
    sets: Sequence[str] = (),
    splits: Sequence[Split] = ("zscl", "coop"),
    *,
    decode: bool = True,
    sizes: bool = True,
) -> Iterator[Finding]:
    """Check data sets one after another: files, counts, classes, images.

    Args:
        root: the data folder.
        sets: names as in `mtil.json`, "TinyImageNet", "ImageNet"; empty: the eleven of MTIL.
        splits: which splits of MTIL.
        decode: decode every image.
        sizes: compare counts and checksums with the published ones (not for imitations).

    Raises:
        UserError: an unknown set. (Faults of the data are findings.)
    """
    for name in sets:
        if name not in SOURCES:
            raise unknown_name("data set", name, SOURCES)
    location = DataLocation(root, verify=False)  # find every fault, not only the first
    for name in sets or mtil_names():
        # CoOp's split needs its file and the images alone.
        alone = tuple(splits) == ("coop",) and coop_images(name, root) is not None
        lacking = [] if alone else missing(name, root)
        for path in lacking:
            yield Finding(name, "files", False, f"{path} is missing")
        if lacking:
            continue
        for fault in wrong_checksums(name, root) if sizes and not alone else ():
            yield Finding(name, "files", False, fault)
        seen: set[str] = set()
        if name in OTHERS:
            yield from _check_other(name, root, decode, sizes)
            continue
        for split in splits:
            yield from _check_split(name, split, location, decode, sizes, seen)
        if not alone:
            yield from _check_folders(name, root)


def _check_split(
    name: str, split: Split, location: DataLocation, decode: bool, sizes: bool, seen: set[str]
) -> Iterator[Finding]:
    try:
        task = mtil_task(name, location, split)
    except UserError as error:
        yield Finding(name, split, False, str(error))
        return
    known = facts("mtil")["data_sets"][name]
    expected = known["sizes"][split] if sizes else {}
    yield from _counts(name, split, task, expected)
    count = known["coop_classes"] if split == "coop" else known["classes"]
    if len(task.class_names) != count:
        text = f"{len(task.class_names)} classes, {count} expected"
        yield Finding(name, f"{split} classes", False, text)
    without = sorted(set(range(len(task.class_names))) - set(task.train.labels.tolist()))
    if without:
        names = ", ".join(task.class_names[label] for label in without[:5])
        text = f"{len(without)} classes without a training image: {names}"
        yield Finding(name, f"{split} classes", False, text)
    if decode:
        yield from _images(name, [getattr(task, part) for part in SPLITS], seen)


def _counts(name: str, aspect: str, task: Task, expected: dict[str, int]) -> Iterator[Finding]:
    found = {part: len(getattr(task, part)) for part in SPLITS}
    good = all(found[part] == count for part, count in expected.items())
    text = " / ".join(f"{count} {part}" for part, count in found.items() if count)
    if not good:
        text += "; published: " + " / ".join(f"{n} {p}" for p, n in expected.items() if n)
    yield Finding(name, aspect, good, text)


def _images(name: str, parts: list[PictureData], seen: set[str]) -> Iterator[Finding]:
    decoded = 0
    for data in parts:
        pictures: Pictures = data.pictures
        if isinstance(pictures, ArrayPictures):  # decoded when they were read
            continue
        rows = [row for row in data.rows.tolist() if pictures.name(row) not in seen]
        seen.update(pictures.name(row) for row in rows)
        if not rows:
            continue
        decoded += len(rows)
        for message in unreadable(pictures, rows, f"check {name}").values():
            yield Finding(name, "images", False, message.split("; ")[0])
    if decoded:
        yield Finding(name, "images", True, f"{decoded} decoded")


_EUROSAT = (
    "AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop Residential "
    "River SeaLake"
)


def _check_folders(name: str, root: Path) -> Iterator[Finding]:
    # The others have no class folders, or no list of them to compare with.
    if name == "EuroSAT":
        folder, wanted = root / "eurosat/2750", set(_EUROSAT.split())
    elif name == "Food":
        folder = root / "food-101/images"
        text = (root / "food-101/meta/train.json").read_text(encoding="utf-8")
        wanted = set(json.loads(text))
    elif name == "DTD":
        folder = root / "dtd/dtd/images"
        lines = (root / "dtd/dtd/labels/train1.txt").read_text(encoding="utf-8").split()
        wanted = {line.split("/")[0] for line in lines}
    else:
        return
    found = {e.name for e in folder.iterdir() if e.is_dir() and not is_stray(e.name)}
    for extra in sorted(found - wanted):
        text = f"{folder / extra} is not a class of {name}; remove it"
        yield Finding(name, "classes", False, text)
    for lacking in sorted(wanted - found):
        yield Finding(name, "classes", False, f"{folder / lacking} is missing")


def _check_other(name: str, root: Path, decode: bool, sizes: bool) -> Iterator[Finding]:
    key = "tinyimagenet" if name == "TinyImageNet" else "imagenet1000"
    expected = facts("class_incremental")["sizes"][key]
    for part, published in (("train", "train"), ("val", "test")):
        try:
            listing: Listing = (read_tiny_imagenet if key == "tinyimagenet" else read_imagenet)(
                root, part
            )
        except UserError as error:
            yield Finding(name, part, False, str(error))
            continue
        found, wanted = len(listing.labels), expected[published]
        good = found == wanted or not sizes
        text = f"{found} images" + ("" if good else f"; published: {wanted}")
        yield Finding(name, part, good, text)
        if len(listing.classes) != len(class_names(key)):
            yield Finding(name, "classes", False, f"{len(listing.classes)} classes")
        if decode:
            yield from _images(name, [listing.data], set())
