"""Imitations of Tiny-ImageNet, ImageNet and Conceptual Captions: layouts as published, tiny images."""

import random
from collections.abc import Sequence
from pathlib import Path

from imitation_data.writing import write_image, write_text

from vlcl_toolkit.streams.full_size.reference import CAPTIONS
from vlcl_toolkit.streams.splits import facts

SENTENCES = (
    "a river in the hills",
    "two people on a bench",
    "an old house by the sea",
    "a red car",
)


def tiny_imagenet(root: Path, wnids: Sequence[str] | None = None) -> None:
    """Two training images and one validation image of each class; None: of all 200, as published."""
    wnids = list(wnids or facts("class_incremental")["tinyimagenet_wnids"])
    base, lines = root / "tiny-imagenet-200", []
    write_text(base / "wnids.txt", wnids)
    write_text(base / "words.txt", [f"{wnid}\tword, other word" for wnid in sorted(wnids)])
    for label, wnid in enumerate(wnids):
        boxes = []
        for i in range(2):
            write_image(base / f"train/{wnid}/images/{wnid}_{i}.JPEG", label)
            boxes.append(f"{wnid}_{i}.JPEG\t0\t0\t9\t9")
        write_text(base / f"train/{wnid}/{wnid}_boxes.txt", boxes)
        write_image(base / f"val/images/val_{label}.JPEG", label)
        lines.append(f"val_{label}.JPEG\t{wnid}\t0\t0\t9\t9")
    random.Random(0).shuffle(lines)
    write_text(base / "val/val_annotations.txt", lines)


def imagenet(root: Path, wnids: Sequence[str] | None = None) -> None:
    """Class folders with one training and one validation image in each; None: a thousand.

    Of these the first hundred have their official names; the names of the others are made up and
    sort behind them.
    """
    made_up = [f"n{2000000 + i:08}" for i in range(900)]
    wnids = wnids or facts("class_incremental")["imagenet100_wnids"] + made_up
    for label, wnid in enumerate(wnids):
        write_image(root / f"imagenet/train/{wnid}/{wnid}_{label}.JPEG", label)
        write_image(root / f"imagenet/val/{wnid}/ILSVRC2012_val_{label:08}.JPEG", label)


def captions(root: Path) -> None:
    """A captions file, and images as if fetched from its addresses."""
    lines = [f"{sentence}\thttp://example.org/{i}.jpg" for i, sentence in enumerate(SENTENCES)]
    write_text(root / CAPTIONS, lines)
    for i in range(len(SENTENCES)):
        write_image((root / CAPTIONS).parent / f"images/{i}.jpg", i)
