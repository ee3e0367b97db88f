"""The eleven data sets as they are published: file lists, labels and class names by official part.

torchvision's classes read the annotations; images are not decoded here. File lists and labels come
from private attributes, because the public interface decodes every image to return a label. Where
this module has a reader of its own instead, the comment says why.
"""

import io
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor
from torchvision import datasets as tv
from torchvision.datasets.mnist import read_image_file, read_label_file

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.streams.full_size.sources import (
    SOURCES,
    advice,
    files_folder,
    require,
    wrong_checksums,
)
from vlcl_toolkit.streams.pictures import (
    ArrayPictures,
    FilePictures,
    PictureData,
    Pictures,
    is_stray,
)

# What the readers of text, JSON, .mat, pickles and IDX files raise when those are damaged.
_DAMAGE = (
    *(RuntimeError, OSError, ValueError, LookupError, TypeError, AttributeError, EOFError),
    *(AssertionError, pickle.UnpicklingError),
)


@dataclass(frozen=True)
class Listing:
    """A part of a data set.

    Attributes:
        pictures, labels: in the data set's order. `classes`: as the data set writes them.
    """

    pictures: Pictures
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]

    @property
    def data(self) -> PictureData:
        """As labelled images."""
        return PictureData(self.pictures, self.labels)


def read_official(name: str, root: Path, part: str, *, verify: bool = True) -> Listing:
    """Read one part of a data set.

    Args:
        name: as in `mtil.json`. `root`: the data folder.
        part: "train", "test", and "val" where there is one; "trainval" of OxfordPet; "all" of the
            sets without official parts.
        verify: compare the unpacked files whose MD5 is published. Archives are never needed.

    Raises:
        UserError: a file is missing, damaged or inconsistent.
    """
    require(name, root)
    for fault in wrong_checksums(name, root) if verify else ():
        raise UserError(fault)
    try:
        listing = _READERS[name](root, part)
    except _DAMAGE as error:
        raise UserError(
            f"the files of {name} in {root / SOURCES[name].folder} are damaged or inconsistent "
            f"({type(error).__name__}: {error}); remove them; {advice(name, root)}"
        ) from error
    if not len(listing.labels):
        raise UserError(f"{name} has no image in its part {part!r}; {advice(name, root)}")
    return listing


def _files(
    root: Path, folder: str, paths: list[Path] | list[str], labels: list[int], classes: list[str]
) -> Listing:
    base = root / folder
    relative = [os.path.relpath(path, base) for path in paths]
    return Listing(FilePictures(base, relative), torch.tensor(labels), tuple(classes))


def _class_folders(base: Path) -> tuple[list[str], list[str], list[int]]:
    # Classes, files and labels of a folder of class folders, in torchvision's order; leftovers of systems
    # and editors (.ipynb_checkpoints, ._a.jpg) are neither.
    found = sorted(entry.name for entry in base.iterdir() if entry.is_dir())
    classes = [name for name in found if name != "BACKGROUND_Google" and not is_stray(name)]
    paths, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(path.name for path in (base / name).glob("*.jpg") if not is_stray(path.name))
        paths += [f"{name}/{file}" for file in files]
        labels += [label] * len(files)
    return classes, paths, labels


def _aircraft(root: Path, part: str) -> Listing:
    # Not torchvision's: it knows one folder name only. The classes are the variants.
    base = files_folder("Aircraft", root)
    classes = (base / "variants.txt").read_text(encoding="utf-8").strip().splitlines()
    label_of = {name.strip(): label for label, name in enumerate(classes)}
    lines = (base / f"images_variant_{part}.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.strip().split(" ", 1) for line in lines]
    labels = torch.tensor([label_of[variant] for _, variant in pairs])
    return Listing(
        FilePictures(base / "images", [f"{image}.jpg" for image, _ in pairs]),
        labels,
        tuple(label_of),
    )


def _caltech(root: Path, part: str) -> Listing:
    # Not torchvision's: it makes an empty folder where the set is missing, counts any stray file as
    # an image, and takes the numbers 1..n for granted. On the official files both agree.
    base = root / "caltech101/101_ObjectCategories"
    classes, paths, labels = _class_folders(base)
    # The official code opens these without conversion; grey ones stay grey until resized.
    pictures = FilePictures(base, paths, rgb=False)
    return Listing(pictures, torch.tensor(labels, dtype=torch.int64), tuple(classes))


class _ArraysOnly(pickle.Unpickler):
    """Reads numpy arrays, strings, bytes, numbers and containers of them, and nothing else."""

    allowed: ClassVar = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),  # as the published files have it
        ("numpy._core.multiarray", "_reconstruct"),
        ("_codecs", "encode"),  # bytes in files that Python 3 wrote with protocol 2
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of arrays")
        return super().find_class(module, name)


def _cifar100(root: Path, part: str) -> Listing:
    # Not torchvision's: the files are pickles, and its reader runs whatever code they contain.
    base = files_folder("CIFAR100", root)
    batch, meta = (
        _ArraysOnly(io.BytesIO((base / file).read_bytes()), encoding="latin1").load()
        for file in (part, "meta")
    )
    pixels = batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = torch.tensor(batch["fine_labels"])
    return Listing(ArrayPictures(pixels, str(base / part)), labels, tuple(meta["fine_label_names"]))


def _eurosat(root: Path, part: str) -> Listing:
    # Not torchvision's: it takes any folder for a class.
    base = root / "eurosat/2750"
    classes, paths, labels = _class_folders(base)
    return Listing(FilePictures(base, paths), torch.tensor(labels), tuple(classes))


class _Flowers102(tv.Flowers102):  # its checksums are left to `wrong_checksums`
    _file_dict: ClassVar = {k: (name, None) for k, (name, _) in tv.Flowers102._file_dict.items()}


def _mnist(root: Path, part: str) -> Listing:
    # Not torchvision's: it knows one folder name only.
    base, prefix = files_folder("MNIST", root), "train" if part == "train" else "t10k"
    images = read_image_file(str(base / f"{prefix}-images-idx3-ubyte"))
    labels = read_label_file(str(base / f"{prefix}-labels-idx1-ubyte"))
    pictures = ArrayPictures(images.numpy(), f"{base}, {part}")  # mode L
    return Listing(pictures, labels.long(), tuple(tv.MNIST.classes))


def _cars(root: Path, part: str) -> Listing:
    found = tv.StanfordCars(root, part)
    paths = [path for path, _ in found._samples]
    labels = [int(label) for _, label in found._samples]
    return _files(root, "stanford_cars", paths, labels, found.classes)


def _sun(root: Path, part: str) -> Listing:
    found = tv.SUN397(root)
    # torchvision lists files as the file system gives them. Sorted, the split is the same on every
    # machine (and different from the authors', whose order nobody knows).
    pairs = sorted(zip(map(str, found._image_files), found._labels, strict=True))
    paths, labels = [path for path, _ in pairs], [label for _, label in pairs]
    return _files(root, "SUN397", paths, labels, found.classes)


def _listed(
    reader: Callable[..., Any], folder: str, files: str = "_image_files"
) -> Callable[[Path, str], Listing]:
    # For torchvision's sets that keep their files and labels in two lists.
    def read(root: Path, part: str) -> Listing:
        found = reader(root, part)
        return _files(root, folder, getattr(found, files), found._labels, found.classes)

    return read


_READERS: dict[str, Callable[[Path, str], Listing]] = {
    "Aircraft": _aircraft,
    "Caltech101": _caltech,
    "CIFAR100": _cifar100,
    "DTD": _listed(tv.DTD, "dtd/dtd/images"),  # partition 1
    "EuroSAT": _eurosat,
    "Flowers": _listed(_Flowers102, "flowers-102/jpg"),
    "Food": _listed(tv.Food101, "food-101/images"),
    "MNIST": _mnist,
    "OxfordPet": _listed(tv.OxfordIIITPet, "oxford-iiit-pet/images", "_images"),
    "StanfordCars": _cars,
    "SUN397": _sun,
}
