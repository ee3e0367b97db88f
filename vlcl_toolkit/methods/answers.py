"""Answers on image sets that are asked again after every task, renewed only where they can differ.

A method that decides by task Gaussians tests every set after every task. In between, old Gaussians
and old prompts do not move by one bit; what is new is one Gaussian. So

1. the frozen features of an image are computed once, and after a task only one new log density;
2. an image whose largest log density stayed the same keeps its task and its weight, hence its
   answer. Where a batch decides together, it keeps its answers if all of its images do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from vlcl_toolkit.seeds import derive_seed
from vlcl_toolkit.streams.base import ImageData, Task

_SPLITS = ("train", "validation", "test")


@dataclass
class _Known:
    """Answers on one split of a task, one per image.

    Attributes:
        labels: predicted, int64.
        task: whose prompts the image ran with, int64.
        score: the image's largest log density then, float64; -inf: the answer does not count.
        texts: fingerprint of the class prompts.
    """

    labels: Tensor
    task: Tensor
    score: Tensor
    texts: int


class LogDensities:
    """Log densities of image sets under a growing number of tasks.

    Args:
        features: frozen features of a set.
        columns: log densities of features under the tasks from one on, `[n, new tasks]`.
    """

    def __init__(
        self, features: Callable[[ImageData], Tensor], columns: Callable[[Tensor, int], Tensor]
    ):
        self._compute_features, self._compute_columns = features, columns
        self._features: WeakKeyDictionary[ImageData, Tensor] = WeakKeyDictionary()
        self._columns: WeakKeyDictionary[ImageData, Tensor] = WeakKeyDictionary()

    def of(self, data: ImageData) -> Float64[Tensor, "n tasks"]:
        """Under all tasks there are now."""
        features = self.features(data)
        if data not in self._columns:
            self._columns[data] = self._compute_columns(features, 0)
        known = self._columns[data]
        new = self._compute_columns(features, known.shape[1])
        self._columns[data] = torch.cat((known, new), dim=1)
        return self._columns[data]

    def features(self, data: ImageData) -> Float[Tensor, "n dim"]:
        """Frozen features of a set."""
        if data not in self._features:
            self._features[data] = self._compute_features(data)
        return self._features[data]


class Answers:
    """Predicted labels of the sets of tasks."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def renew(
        self,
        data: ImageData,
        task: Task,
        texts: list[str],
        score: Float64[Tensor, " n"],
        answer: Callable[[Tensor], tuple[Tensor, Tensor]],
        *,
        batch_size: int,
        together: bool,
    ) -> Int64[Tensor, " n"]:
        """Labels of a set, asking anew only about images whose answer can have changed.

        Args:
            texts: class prompts.
            score: largest log density of each image now.
            answer: indices of images -> their labels and the tasks whose prompts they ran with.
            batch_size: images per call of `answer`.
            together: whether a batch of consecutive images decides together.
        """
        key = next(
            (f"{split}.{task.name}" for split in _SPLITS if getattr(task, split) is data), ""
        )
        known, score = self._usable(key, len(data), derive_seed(*texts)), score.cpu()
        changed = known.score != score
        everything = torch.arange(len(data)).split(batch_size)
        if together:
            parts = [part for part in everything if changed[part].any()]
        else:
            parts = [part for part in changed.nonzero()[:, 0].split(batch_size) if len(part)]
        for part in parts:
            labels, tasks = answer(part)
            known.labels[part], known.task[part] = labels.cpu(), tasks.cpu()
        known.score = score.clone()
        if key:  # a set that belongs to no task has no name to be known by
            self._known[key] = known
        return known.labels.clone()

    def _usable(self, key: str, count: int, texts: int) -> _Known:
        known = self._known.get(key)
        if known is not None and known.texts == texts and len(known.labels) == count:
            return known
        nothing = torch.full((count,), -1, dtype=torch.int64)
        return _Known(nothing, nothing.clone(), nothing.double() * torch.inf, texts)

    def forget(self, task: int) -> None:
        """The prompts of `task` moved: answers that were made with them do not count."""
        for known in self._known.values():
            known.score[known.task == task] = -torch.inf

    def state_dict(self) -> dict[str, Tensor]:
        """All answers, by "<split>.<task name>.<field>"."""
        return {
            f"{key}.{name}": torch.as_tensor(getattr(known, name))
            for key, known in self._known.items()
            for name in ("labels", "task", "score", "texts")
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        for key in sorted({name.rsplit(".", 1)[0] for name in state}):
            labels, task, score, texts = (
                state[f"{key}.{name}"].cpu().clone()
                for name in ("labels", "task", "score", "texts")
            )
            self._known[key] = _Known(labels, task, score, int(texts))
