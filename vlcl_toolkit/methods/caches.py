"""What a frozen network says about images that are asked for again and again, computed once.

Features of the backbone serve all runs of a process: runs leave the backbone as it was, and the images of a
stream do not change.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.seeds import derive_seed
from vlcl_toolkit.streams.base import ImageData, Task, load_batch

LIMIT_MIB = 2048
_SMALL = 0.01  # of the limit

# Features go with the images they belong to.
Kept = WeakKeyDictionary[ImageData, Tensor]
# Backbone -> images at once -> features; a feature's last digits depend on the size of its portion.
_of_backbones: WeakKeyDictionary[Clip, dict[int, Kept]] = WeakKeyDictionary()


class FrozenFeatures:
    """What a frozen network says about the images of a set: computed once, while memory lasts.

    Always in the same portions, so that a number does not depend on what was kept.

    Args:
        clip: whose test transform and device serve.
        extract: float images `[b, 3, h, w]` on the device -> features `[b, raw]`.
        limit_mib: memory for features; sets that do not fit are computed anew.
        images_at_once: the size of a portion.
        kept: where features are kept; default: with this object.
    """

    def __init__(
        self,
        clip: Clip,
        extract: Callable[[Tensor], Tensor],
        limit_mib: int = LIMIT_MIB,
        *,
        images_at_once: int = 128,
        kept: Kept | None = None,
    ):
        self.clip, self.extract, self.images_at_once = clip, extract, images_at_once
        self._limit = limit_mib * 2**20
        self._kept: Kept = WeakKeyDictionary() if kept is None else kept

    @classmethod
    def of_backbone(
        cls, clip: Clip, limit_mib: int = LIMIT_MIB, *, images_at_once: int = 128
    ) -> "FrozenFeatures":
        """Unit-norm image features of the plain backbone, kept for the other runs of this process, too."""
        kept = _of_backbones.setdefault(clip, {}).setdefault(images_at_once, WeakKeyDictionary())
        return cls(clip, clip.encode_image, limit_mib, images_at_once=images_at_once, kept=kept)

    @torch.no_grad()
    def parts(self, data: ImageData, *, again: bool = True) -> Iterator[Float[Tensor, "b raw"]]:
        """Features of all images, test transform, in file order, some at a time.

        Args:
            again: whether this run will ask for them again; if not, only a small set is kept.
        """
        if data in self._kept:
            yield from self._kept[data].split(self.images_at_once)
            return
        parts: list[Tensor] | None = []
        for indices in torch.arange(len(data)).split(self.images_at_once):
            images, _ = load_batch(data, indices, self.clip.eval_transform)
            part = self.extract(images.to(self.clip.device))
            if parts is not None:
                size = part[0].nbytes * len(data)
                fits = size <= self._free() and (again or size <= _SMALL * self._limit)
                parts = [*parts, part] if fits else None
            yield part
        if parts:
            self._kept[data] = torch.cat(parts)

    def of(self, data: ImageData, *, again: bool = True) -> Float[Tensor, "n raw"]:
        """Features of all images at once."""
        parts = list(self.parts(data, again=again))
        return self._kept[data] if data in self._kept else torch.cat(parts)

    def _free(self) -> int:
        return self._limit - sum(features.nbytes for features in self._kept.values())


_SPLITS = ("train", "validation", "test")


@dataclass
class _Known:
    """PredictionCache on one split of a task, one per image.

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


class LogDensityCache:
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


class PredictionCache:
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
