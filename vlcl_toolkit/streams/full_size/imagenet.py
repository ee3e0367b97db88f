"""ImageNet and Tiny-ImageNet: folders named by WordNet ids."""

from pathlib import Path

import torch

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.streams.full_size.sources import advice, require
from vlcl_toolkit.streams.full_size.torchvision_sets import Listing
from vlcl_toolkit.streams.pictures import IMAGE_SUFFIXES, FilePictures, is_stray
from vlcl_toolkit.streams.splits import facts

_CLASSES = 1000


def read_tiny_imagenet(root: Path, part: str) -> Listing:
    """Tiny-ImageNet; labels follow its wnids.txt, not the alphabet.

    torchvision has no reader for it.

    Args:
        part: "train" or "val" (which serves as the test set).

    Raises:
        UserError: a file is missing, or the classes are not those published.
    """
    require("TinyImageNet", root)
    base = root / "tiny-imagenet-200"
    wnids = (base / "wnids.txt").read_text(encoding="utf-8").split()
    if wnids != facts("class_incremental")["tinyimagenet_wnids"]:
        raise UserError(
            f"{base / 'wnids.txt'} does not list the 200 classes in the published order; "
            f"{advice('TinyImageNet', root)}"
        )
    if part == "train":
        found = [
            (f"train/{wnid}/images/{path.name}", label)
            for label, wnid in enumerate(wnids)
            for path in sorted((base / "train" / wnid / "images").glob("*.JPEG"))
            if not is_stray(path.name)
        ]
    else:
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        found = []
        lines = (base / "val/val_annotations.txt").read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            file, _, rest = line.partition("\t")
            wnid = rest.partition("\t")[0]
            if wnid not in labels:
                raise UserError(
                    f"{base / 'val/val_annotations.txt'}, line {number}: unknown class {wnid!r}; "
                    f"{advice('TinyImageNet', root)}"
                )
            found.append((f"val/images/{file}", labels[wnid]))
    return _listing(base, found, wnids)


def read_imagenet(root: Path, part: str, wnids: tuple[str, ...] | None = None) -> Listing:
    """ImageNet's classification task of 2012, or some classes of it; labels follow sorted wnids.

    Folders of classes are all that is needed; torchvision's class also wants the archive of the
    development kit.

    Args:
        part: "train" or "val". `wnids`: only these classes, labelled in this order.

    Raises:
        UserError: a folder is missing, or there are not 1000 classes.
    """
    require("ImageNet", root)
    base = root / "imagenet" / part
    if wnids is None:
        wnids = tuple(sorted(path.name for path in base.glob("n[0-9]*") if path.is_dir()))
        if len(wnids) != _CLASSES:
            raise UserError(
                f"{base} must have {_CLASSES} class folders named by WordNet ids; found "
                f"{len(wnids)}; {advice('ImageNet', root)}"
            )
    missing = [wnid for wnid in wnids if not (base / wnid).is_dir()]
    if missing:
        raise UserError(
            f"{base} lacks {len(missing)} class folders, e.g. {missing[0]}; "
            f"{advice('ImageNet', root)}"
        )
    found = [
        (f"{wnid}/{path.name}", label)
        for label, wnid in enumerate(wnids)
        for path in sorted((base / wnid).iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_stray(path.name)
    ]
    return _listing(base, found, wnids)


def _listing(
    base: Path, found: list[tuple[str, int]], classes: tuple[str, ...] | list[str]
) -> Listing:
    labels = torch.tensor([label for _, label in found], dtype=torch.int64)
    empty = sorted(set(range(len(classes))) - set(labels.tolist()))
    if empty:
        raise UserError(f"{base} has no image of the class {classes[empty[0]]!r}; fetch it again")
    return Listing(FilePictures(base, [path for path, _ in found]), labels, tuple(classes))
