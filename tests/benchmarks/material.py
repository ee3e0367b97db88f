"""MTIL in its true numbers of images, classes and templates, with noise for images.

The noise lies ready on the device, so that what is measured is the model, not the loading of images.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.seeds import generator
from vlcl_toolkit.streams.base import Reference, Task, TaskStream
from vlcl_toolkit.streams.data import ImageData
from vlcl_toolkit.streams.splits import SPLITS, facts

_DIFFERENT = 256  # images; more would only take memory
_REFERENCE_IMAGES = 100_000  # ZSCL's paper: as good as all of ImageNet
_SENTENCES = 13_000  # about what Conceptual Captions' validation part has


class Noise(ImageData):
    """Any number of transformed images, a few of them different, on the device."""

    def __init__(self, pool: Float[Tensor, "k 3 h w"], labels: Int64[Tensor, " n"]):
        self.pool, self.labels = pool, labels

    @classmethod
    def like(cls, clip: Clip, count: int, classes: int) -> "Noise":
        """`count` images for a backbone, labels in turn."""
        size = clip.image_size
        pool = torch.randn(_DIFFERENT, 3, size, size, generator=generator("noise"))
        return cls(pool.to(clip.device), torch.arange(count) % max(classes, 1))

    def transformed(
        self,
        indices: Int64[Tensor, " b"],
        transform: Callable[[Any], Tensor],
        part: slice,
        seed: int | None,
    ) -> Float[Tensor, "part 3 h w"]:
        """They are transformed already."""
        return self.pool[(indices[part] % len(self.pool)).to(self.pool.device)]

    def subset(self, indices: Any) -> "Noise":
        """As many, with their labels."""
        return Noise(self.pool, self.labels[torch.as_tensor(indices, dtype=torch.int64)])

    def relabelled(self, labels: Int64[Tensor, " n"]) -> "Noise":
        """The same images with other labels."""
        return Noise(self.pool, labels)


def noise_task(clip: Clip, name: str, split: str = "zscl", scale: float | int = 1) -> Task:
    """A data set of MTIL.

    Args:
        split: "zscl" or "coop", which has validation images and one template.
        scale: of the numbers of images, in (0, 1].
    """
    known = facts("mtil")["data_sets"][name]
    count = known["coop_classes" if split == "coop" else "classes"]
    # Names that come with the files are replaced by some of usual length.
    names = (known["class_names"] or [f"{name.lower()} number {i}" for i in range(count)])[:count]
    sizes = known["sizes"][split]
    pool = Noise.like(clip, 0, count).pool
    parts = []
    for kind in SPLITS:
        images = round(sizes[kind] * scale) if sizes[kind] else 0
        parts.append(Noise(pool, torch.arange(max(images, min(sizes[kind], 4))) % count))
    templates = known["templates"][:1] if split == "coop" else known["templates"]
    return Task(name, tuple(names), tuple(templates), *parts)


def noise_stream(
    clip: Clip, split: str = "zscl", scale: float | int = 1, tasks: int | None = None
) -> TaskStream:
    """MTIL, order I, with as much reference material as ZSCL's paper has.

    Args:
        tasks: only the first ones.
    """
    names = facts("mtil")["orders"]["I"][:tasks]
    count = max(8, round(_REFERENCE_IMAGES * scale))
    sentences = [f"a photo of thing number {i} in its usual place" for i in range(_SENTENCES)]
    reference = Reference(
        Noise.like(clip, count, 1),
        tuple(sentences[: max(8, round(_SENTENCES * scale))]),
        ("thing",),
    )
    return TaskStream(
        f"mtil-{split}-noise",
        tuple(noise_task(clip, name, split, scale) for name in names),
        "noise",
        reference=lambda: reference,
    )
