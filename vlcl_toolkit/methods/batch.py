"""What a training step looks at: the images that it requests, and the batch that it gets.

A batch follows from the task, the seed and the step alone, so that neither the number of workers nor
an interruption changes it. `Method.batch_requests` chooses the images; the training loop loads them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlcl_toolkit.streams.base import ImageData

LABELLED = "labelled"
"""Name of the request whose images and labels are learned."""


class BatchRequest(NamedTuple):
    """Images that a step needs; the arguments of `load_batch`."""

    data: ImageData
    indices: Int64[Tensor, " b"]
    transform: Callable[[Any], Tensor]
    seed: int | None = None


@dataclass(frozen=True)
class ImageSet:
    """Images of a batch beside the labelled ones.

    Attributes:
        images: those of this rank.
        indices: of the images of all ranks in the data set they come from.
    """

    images: Float[Tensor, "part 3 h w"]
    indices: Int64[Tensor, " b"]

    @property
    def total(self) -> int:
        """Images of all ranks."""
        return len(self.indices)


@dataclass(frozen=True)
class Batch:
    """What one step learns from, on the device.

    Attributes:
        images: the labelled images of this rank.
        labels: of the whole batch, on every rank.
        step: of the optimiser, from 0 in every task.
        seed: of the task; what is random in a step follows from it and from `step`.
        others: further sets of images by the name of their request, e.g. "reference".
        prepared: what `Method.prepare` computed for the whole batch.
    """

    images: Float[Tensor, "part 3 h w"]
    labels: Int64[Tensor, " b"]
    step: int
    seed: int = 0
    others: Mapping[str, ImageSet] = field(default_factory=dict)
    prepared: Mapping[str, Tensor] = field(default_factory=dict)


def assemble(
    requests: Mapping[str, BatchRequest],
    loaded: Sequence[Sequence[Tensor]],
    step: int,
    seed: int,
    device: torch.device,
) -> Batch:
    """A batch from the images and labels that were loaded for each of `requests`, in their order."""
    sets = dict(zip(requests, loaded, strict=True))
    images, labels = (x.to(device, non_blocking=True) for x in sets.pop(LABELLED))
    others = {
        name: ImageSet(found.to(device, non_blocking=True), requests[name].indices)
        for name, (found, _) in sets.items()
    }
    return Batch(images, labels, step, seed, others)
