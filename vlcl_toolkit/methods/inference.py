"""A network on all images of a data set: test transform, file order, batch after batch, no gradient."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.sharding import gather_predictions, other_batch
from vlcl_toolkit.streams.base import ImageData, Task, load_batch

Network = Callable[[Tensor], Tensor]
"""Transformed images `[b, 3, h, w]` on the device -> one row for each."""


def class_features(clip: Clip, task: Task) -> Float[Tensor, "classes dim"]:
    """Prompt-ensemble features of the classes of a task, by the text tower as it is now.

    In a union of tasks each class has the templates of its own task.
    """
    parts = task.parts or (task,)
    return torch.cat([clip.class_features(part.class_names, part.templates) for part in parts])


@torch.no_grad()
def run_batch(
    network: Network, clip: Clip, data: ImageData, indices: Int64[Tensor, " b"]
) -> Tensor:
    """Rows of the images at `indices`, as one batch."""
    images, _ = load_batch(data, indices, clip.eval_transform)
    with other_batch(len(indices)):
        return network(images.to(clip.device))


def run_batches(
    network: Network,
    clip: Clip,
    data: ImageData,
    batch_size: int,
    indices: Int64[Tensor, " n"] | None = None,
) -> Iterator[Tensor]:
    """Rows of the images at `indices` (None: of all), some at a time; nothing for no image."""
    chosen = torch.arange(len(data)) if indices is None else indices
    for part in chosen.split(batch_size) if len(chosen) else ():
        yield run_batch(network, clip, data, part)


def predicted_labels(
    logits: Network, clip: Clip, data: ImageData, batch_size: int
) -> Int64[Tensor, " n"]:
    """Index of each image's largest logit, on the CPU; the ranks of a run share the batches."""
    parts = torch.arange(len(data)).split(batch_size) if len(data) else ()

    def predict(indices: Tensor) -> Tensor:
        return run_batch(logits, clip, data, indices).argmax(dim=1)

    return gather_predictions(parts, predict, clip.device)


def percent_correct(predicted: Int64[Tensor, " n"], labels: Int64[Tensor, " n"]) -> float:
    """Percent of images whose predicted label is the true one; nan for no image."""
    return 100 * int((predicted == labels).sum()) / len(labels) if len(labels) else float("nan")
