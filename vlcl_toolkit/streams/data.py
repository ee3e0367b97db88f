"""Labelled images, their order in training, and batches of them."""

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as TF

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.seeds import derive_seed, generator, local_seed
from vlcl_toolkit.sharding import local_images


class Content:
    """Stands for a set of images."""


class ImageData(Dataset):
    """Labelled uint8 images in memory.

    `PictureData` has the same interface and decodes files of any size when they are asked for.

    Attributes:
        images: uint8 `[N, 3, H, W]`, RGB.
        labels: int64 `[N]`, counted from 0.
    """

    labels: Tensor
    _content: "Content | None" = None

    def __init__(self, images: Tensor, labels: Tensor):
        """Check and keep both.

        Raises:
            UserError: wrong type or shape, different lengths, a negative label.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            found = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
            raise UserError(f"images must be uint8 [N, 3, H, W]; found {found}; convert them first")
        check_labels(labels, len(images))
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 h w"], Int64[Tensor, ""]]:
        return self.images[index], self.labels[index]

    def picture(self, index: int) -> Image.Image:
        """One image as PIL has it."""
        return TF.to_pil_image(self.images[index])

    def transformed(
        self,
        indices: Int64[Tensor, " b"],
        transform: Callable[[Any], Tensor],
        part: slice,
        seed: int | None,
    ) -> Float[Tensor, "part 3 h w"]:
        """Those of the images at `indices` that `part` chooses, through `transform`.

        Args:
            seed: of random choices, which are those that an image gets with all of `indices`.
        """
        with local_seed(seed):
            return transform(self.images[indices])[part]

    def subset(self, indices: Sequence[int] | Int64[Tensor, " n"]) -> "ImageData":
        """The images at `indices`, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return ImageData(self.images[chosen], self.labels[chosen])

    def relabelled(self, labels: Int64[Tensor, " n"]) -> "ImageData":
        """The same images with other labels.

        Raises:
            UserError: unfit labels.
        """
        check_labels(labels, len(self))
        other = copy.copy(self)
        other.labels, other._content = labels, self.content
        return other

    @property
    def content(self) -> "Content":
        """What a cache of features goes by: the same object for the same images, whatever their labels."""
        if self._content is None:
            self._content = Content()
        return self._content


def check_labels(labels: Tensor, count: int) -> None:
    """Refuse labels that do not fit `count` images.

    Raises:
        UserError: not int64, another number of them, a negative one.
    """
    if labels.dtype != torch.int64 or labels.shape != (count,):
        found = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
        raise UserError(f"labels must be int64 [{count}], one per image; found {found}")
    if len(labels) and int(labels.min()) < 0:
        raise UserError(f"labels must be >= 0; found {int(labels.min())}")


def few_shot_indices(labels: Int64[Tensor, " n"], shots: int, seed: int) -> Int64[Tensor, " m"]:
    """Indices of `shots` random examples per class, ascending; all of a class that has fewer."""
    shuffled = torch.randperm(len(labels), generator=generator("few-shot", seed))
    chosen = [shuffled[labels[shuffled] == label][:shots] for label in labels.unique(sorted=True)]
    return torch.cat(chosen).sort().values if chosen else torch.empty(0, dtype=torch.int64)


@lru_cache(maxsize=4)  # one permutation serves a whole epoch
def _permutation(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=generator("order", seed, epoch))


def batches(n: int, batch_size: int, step: int, seed: int) -> Int64[Tensor, " b"]:
    """Indices of the images of optimisation step `step` (from 0).

    Every epoch is a random permutation of its own (seed, epoch); the last, partial batch is kept.
    Nothing depends on earlier calls, so a run resumes without any state of a loader.
    """
    per_epoch = -(-n // batch_size)
    epoch, position = divmod(step, per_epoch)
    return _permutation(n, seed, epoch)[position * batch_size :][:batch_size].clone()


def load_batch(
    data: ImageData,
    indices: Int64[Tensor, " b"],
    transform: Callable[[Any], Tensor],
    seed: int | None = None,
) -> tuple[Float[Tensor, "part 3 h w"], Int64[Tensor, " b"]]:
    """Transformed images and labels.

    If batches are sharded over ranks (`sharding.py`): the images of this rank, all labels.

    Args:
        seed: seeds the transform's random choices; torch's global generator is left as it was.
            None: the transform draws from the global generator.
    """
    own = None if seed is None else derive_seed("augmentation", seed)
    part = local_images(len(indices))
    return data.transformed(indices, transform, part, own), data.labels[indices]
