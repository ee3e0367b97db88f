"""Images that are decoded when they are asked for: files of any size, or small arrays."""

import contextlib
import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import ExifTags, Image
from torch import Tensor
from torch.utils.data import get_worker_info
from torchvision.transforms.v2 import functional as TF
from tqdm.contrib.concurrent import thread_map

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.seeds import derive_seed, local_seed
from vlcl_toolkit.streams.data import ImageData, check_labels

IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp"),
    *(".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".jfif", ".jpe", ".jp2", ".avif", ".apng", ".dib", ".tga"),
}


def is_stray(name: str) -> bool:
    """Whether a file or folder is one that systems and editors leave behind (.DS_Store, ._a.jpg, __MACOSX)."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def image_files(folder: Path, left_out: Counter[str]) -> list[Path]:
    """All image files below a folder, sorted; counts in `left_out` what else is there, by kind."""
    found: list[Path] = []
    for path, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_stray(name))
        for name in files:
            file = Path(path, name)
            if is_stray(name):
                continue
            if file.suffix.lower() not in IMAGE_SUFFIXES:
                left_out[file.suffix.lower() or "no suffix"] += 1
            elif not file.is_file():  # a pipe, a socket, a link to nothing
                left_out["no regular file"] += 1
            else:
                found.append(file)
    return sorted(found)


class Pictures(ABC):
    """A fixed sequence of PIL images."""

    @abstractmethod
    def __len__(self) -> int:
        """How many."""

    @abstractmethod
    def __getitem__(self, index: int) -> Image.Image:
        """Decode one.

        Raises:
            UserError: it is missing, truncated or not an image; its name is in the message.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What messages call it."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hexadecimal hash that changes when the images do (of files: name, size, time)."""


class FilePictures(Pictures):
    """Image files.

    Args:
        root: folder that `paths` are relative to.
        paths: in order.
        rgb: convert on opening, as torchvision's loader does; False keeps the file's own mode (a
            grey image stays grey until the transform has resized it).
        upright: turn images as their EXIF orientation says, as viewers show them. torchvision's
            loader does not, so the published sets are read without.
    """

    def __init__(
        self, root: str | Path, paths: Sequence[str], *, rgb: bool = True, upright: bool = False
    ):
        self.root, self.paths, self.rgb, self.upright = str(root), tuple(paths), rgb, upright

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        path = self.name(index)
        try:
            with Image.open(path) as image:
                return self._decoded(image)
        except Exception as error:  # there is nothing that decoders do not raise
            cause = getattr(error, "strerror", None) or " ".join(str(error).split())
            cause = cause or type(error).__name__
            path = os.fsencode(path).decode("utf-8", "backslashreplace")
            raise UserError(
                f"cannot read the image {path}: {cause}; fetch it again, or leave such images out "
                "with skip_unreadable"
            ) from error

    def _decoded(self, image: Image.Image) -> Image.Image:
        if self.upright:
            image = _upright(image)
        if image.mode.startswith(("I", "F")):  # PIL would cut these off at 255: white pictures
            values = np.asarray(image)
            if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
                raise ValueError(f"pixels of the mode {image.mode} have no known range")
            image = Image.fromarray((values / 257).round().astype(np.uint8))  # 16 bits -> 8
        if self.rgb:
            return image.convert("RGB")
        image.load()
        return image.copy()

    def name(self, index: int) -> str:
        """Its path."""
        return os.path.join(self.root, self.paths[index])

    def fingerprint(self) -> str:
        """Of every file's relative path, size and time of change; a missing file counts too."""
        digest = hashlib.sha256((str(self.rgb) + "upright" * self.upright).encode())
        for index, path in enumerate(self.paths):
            try:
                found = os.stat(self.name(index))
                facts = f"{path}\0{found.st_size}\0{found.st_mtime_ns}\n"
            except OSError:
                facts = f"{path}\0missing\n"
            digest.update(facts.encode(errors="surrogateescape"))
        return digest.hexdigest()


# Of each damaged note PIL would print a line. Not by `catch_warnings`, which threads cannot share.
warnings.filterwarnings("ignore", "Corrupt EXIF data|Truncated File Read", UserWarning, r"PIL\.")

_TURNS = {  # EXIF's orientations; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    # Not PIL's exif_transpose: it also writes the EXIF data anew, and fails where they are damaged.
    image.load()  # turns a TIFF, and takes the note away
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 (of the notes, and decoders raise anything; the picture may be whole)
        return image
    return image if turn is None else image.transpose(turn)


class ArrayPictures(Pictures):
    """Images of one size that a data set keeps in one array (CIFAR, MNIST).

    Args:
        array: uint8 `[N, H, W]` (grey) or `[N, H, W, 3]`.
        label: what messages call it, e.g. the file it came from.
    """

    def __init__(self, array: np.ndarray, label: str):
        self.array, self.label = array, label

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self.array[index])

    def name(self, index: int) -> str:
        """Array and position."""
        return f"{self.label}, image {index}"

    def fingerprint(self) -> str:
        """Of the content."""
        return hashlib.sha256(np.ascontiguousarray(self.array).tobytes()).hexdigest()


class JoinedPictures(Pictures):
    """The images of several sets, one set after another."""

    def __init__(self, parts: Sequence[ImageData]):
        self.parts = tuple(parts)
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Image.Image:
        part, position = self._find(index)
        return part.picture(position)

    def name(self, index: int) -> str:
        """As the part calls it."""
        part, position = self._find(index)
        if isinstance(part, PictureData):
            return part.pictures.name(int(part.rows[position]))
        return f"image {position}"

    def fingerprint(self) -> str:
        """Of the parts."""
        return data_fingerprint(self.parts)

    def _find(self, index: int) -> tuple[ImageData, int]:
        which = bisect_right(self._ends, index)
        return self.parts[which], index - (self._ends[which - 1] if which else 0)


class PictureData(ImageData):
    """Labelled images, decoded when they are asked for; each may have a size of its own.

    Transforms get PIL images, as in the papers' code (PIL's bicubic rounds differently from that of
    tensors, and grey or palette images keep their mode until after the geometry).

    Attributes:
        pictures: where they come from. `rows`: int64 `[N]`, which of them, in order.
        labels: int64 `[N]`.
    """

    def __init__(self, pictures: Pictures, labels: Int64[Tensor, " n"], rows: Tensor | None = None):
        self.rows = torch.arange(len(pictures)) if rows is None else rows
        check_labels(labels, len(self.rows))
        self.pictures, self.labels = pictures, labels

    @property
    def images(self) -> UInt8[Tensor, "n 3 h w"]:  # type: ignore[override]
        """All images at once, if they have one size.

        Raises:
            UserError: they have not.
        """
        found = [self[index][0] for index in range(len(self))]
        sizes = {tuple(image.shape) for image in found}
        if len(sizes) > 1:
            raise UserError(
                f"these {len(self)} images have {len(sizes)} different sizes and fit into no single "
                "tensor; take them one at a time (data[i]) or through load_batch"
            )
        return torch.stack(found) if found else torch.empty(0, 3, 1, 1, dtype=torch.uint8)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 h w"], Int64[Tensor, ""]]:
        return TF.pil_to_tensor(self.picture(index).convert("RGB")), self.labels[index]

    def picture(self, index: int) -> Image.Image:
        """One image, decoded."""
        return self.pictures[int(self.rows[index])]

    def transformed(
        self,
        indices: Int64[Tensor, " b"],
        transform: Callable[[Any], Tensor],
        part: slice,
        seed: int | None,
    ) -> Float[Tensor, "part 3 h w"]:
        """As in `ImageData`; others are not decoded, so that each image has a seed of its own."""
        if seed is None and getattr(transform, "augment", True) is False:
            chosen = indices[part].tolist()
            return torch.stack(in_threads(lambda index: transform(self.picture(index)), chosen))
        images = []
        for place in range(len(indices))[part]:
            with local_seed(None if seed is None else derive_seed(seed, place)):
                images.append(transform(self.picture(int(indices[place]))))
        return torch.stack(images)

    def subset(self, indices: Sequence[int] | Int64[Tensor, " n"]) -> "PictureData":
        """The images at `indices`, in that order; nothing is decoded."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return PictureData(self.pictures, self.labels[chosen], self.rows[chosen])


def data_fingerprint(sets: Iterable[ImageData]) -> str:
    """Hexadecimal hash that changes when the images of the sets do: pixels, or `Pictures.fingerprint`."""
    digest, known = hashlib.sha256(), dict[int, str]()
    for data in sets:
        if isinstance(data, PictureData):
            key = id(data.pictures)  # parts of one data set share them
            if key not in known:
                known[key] = data.pictures.fingerprint()
            digest.update(known[key].encode())
            digest.update(data.rows.numpy().tobytes())
        else:
            digest.update(data.images.numpy().tobytes())
    return digest.hexdigest()


def joined(parts: Sequence[ImageData]) -> ImageData:
    """Several sets as one, one after another."""
    labels = torch.cat([part.labels for part in parts])
    if any(isinstance(part, PictureData) for part in parts):
        return PictureData(JoinedPictures(parts), labels)
    return ImageData(torch.cat([part.images for part in parts]), labels)


def unreadable(pictures: Pictures, rows: Sequence[int], title: str = "") -> dict[int, str]:
    """Decode every image of `rows`; row -> message of those that cannot be read.

    Args:
        title: of the progress bar; empty: none.
    """

    def fault(row: int) -> str | None:
        try:
            pictures[row]
        except UserError as error:
            return str(error)
        return None

    messages = thread_map(  # decoders run without the interpreter's lock
        fault,
        rows,
        max_workers=os.cpu_count(),
        desc=title,
        unit="image",
        disable=not title,
        leave=False,
    )
    return {row: message for row, message in zip(rows, messages, strict=True) if message}


_threads: ContextVar[int] = ContextVar("threads", default=0)
Item = TypeVar("Item")
Result = TypeVar("Result")


@contextlib.contextmanager
def decoding_threads(count: int) -> Iterator[None]:
    """Context in which `in_threads` uses `count` threads; fewer than 2: none."""
    token = _threads.set(count)
    try:
        yield
    finally:
        _threads.reset(token)


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work` of every item, in order. Decoders run without the interpreter's lock."""
    count = _threads.get()
    # Threads do not survive the fork that makes a loading process.
    if count < 2 or get_worker_info() is not None:
        return [work(item) for item in items]
    return list(_pool(count).map(work, items))


@lru_cache(maxsize=1)
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)
