"""Caches: features of a frozen encoder, log densities, and predictions.

Features of the backbone serve all runs of a process: runs leave the backbone as it was, and the
images of a stream do not change. Predictions are recomputed only where they may have changed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.methods.inference import predicted_labels, run_batches
from vlcl_toolkit.seeds import derive_seed
from vlcl_toolkit.sharding import process_group
from vlcl_toolkit.streams.base import ImageData, Task
from vlcl_toolkit.streams.data import Content

LIMIT_MIB = 2048
_SMALL = 0.01  # of the limit

# An entry goes with the images it belongs to.
Entries = WeakKeyDictionary[Content, Tensor]
# Backbone -> batch size -> features; the last digits of a feature depend on the size of its batch.
_of_backbones: WeakKeyDictionary[Clip, dict[int, Entries]] = WeakKeyDictionary()


class FeatureCache:
    """Cache of frozen-encoder features of sets of images, while memory lasts.

    Batches are always the same, so that a number does not depend on what was cached.

    Args:
        clip: whose test transform and device serve.
        encode: float images `[b, 3, h, w]` on the device -> features `[b, raw]`.
        limit_mib: memory for features; sets that do not fit are computed again.
        batch_size: images per call of `encode`.
        entries: where features are kept; default: with this object.
    """

    def __init__(
        self,
        clip: Clip,
        encode: Callable[[Tensor], Tensor],
        limit_mib: int = LIMIT_MIB,
        *,
        batch_size: int = 128,
        entries: Entries | None = None,
    ):
        self.clip, self.encode, self.batch_size = clip, encode, batch_size
        self._limit = limit_mib * 2**20
        self._entries: Entries = WeakKeyDictionary() if entries is None else entries

    @classmethod
    def of_backbone(
        cls, clip: Clip, limit_mib: int = LIMIT_MIB, *, batch_size: int = 128
    ) -> "FeatureCache":
        """Unit-norm image features of the plain backbone; they serve the other runs of this process, too.

        Where the weights are no longer those the backbone was made with, nothing is shared.
        """
        entries: Entries = WeakKeyDictionary()
        if clip.has_own_weights():
            entries = _of_backbones.setdefault(clip, {}).setdefault(batch_size, entries)
        return cls(clip, clip.encode_image, limit_mib, batch_size=batch_size, entries=entries)

    def batches(self, data: ImageData, *, again: bool = True) -> Iterator[Float[Tensor, "b raw"]]:
        """Features of all images, test transform, in file order, batch after batch.

        Args:
            again: whether this run will ask for them again; if not, only a small set is kept.
        """
        if data.content in self._entries:
            yield from self._entries[data.content].split(self.batch_size)
            return
        parts: list[Tensor] | None = []
        for part in run_batches(self.encode, self.clip, data, self.batch_size):
            if parts is not None:
                size = part[0].nbytes * len(data)
                fits = size <= self._free() and (again or size <= _SMALL * self._limit)
                parts = [*parts, part] if fits else None
            yield part
        if parts:
            self._entries[data.content] = torch.cat(parts)

    def features(self, data: ImageData, *, again: bool = True) -> Float[Tensor, "n raw"]:
        """Features of all images at once; there is at least one image."""
        parts = list(self.batches(data, again=again))
        known = self._entries.get(data.content)
        return torch.cat(parts) if known is None else known

    def predicted_labels(
        self, data: ImageData, logits: Callable[[Tensor], Tensor], *, again: bool = True
    ) -> Int64[Tensor, " n"]:
        """Index of each image's largest logit, on the CPU; several ranks of a run share the batches.

        Args:
            logits: features of a batch -> logits.
            again: as in `batches`.
        """
        if process_group().world_size > 1 and data.content not in self._entries:
            return predicted_labels(
                lambda images: logits(self.encode(images)), self.clip, data, self.batch_size
            )
        parts = self.batches(data, again=again) if len(data) else ()
        nothing = torch.empty(0, dtype=torch.int64)
        return torch.cat([nothing, *(logits(part).argmax(dim=1).cpu() for part in parts)])

    def _free(self) -> int:
        return self._limit - sum(features.nbytes for features in self._entries.values())


_SPLITS = ("train", "validation", "test")


@dataclass
class _Predictions:
    """Of one split of a task, one per image.

    Attributes:
        labels: predicted, int64.
        task: whose prompts the image ran with, int64.
        score: the image's largest log density then, float64; -inf: the label is out of date.
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
        columns: log densities of features under the tasks from a given one on, `[n, new tasks]`.
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
    """Cached predictions, recomputed only where they may have changed."""

    def __init__(self) -> None:
        self._known: dict[str, _Predictions] = {}

    def predict(
        self,
        data: ImageData,
        task: Task,
        texts: list[str],
        score: Float64[Tensor, " n"],
        compute: Callable[[Tensor], tuple[Tensor, Tensor]],
        *,
        batch_size: int,
        batch_decision: bool,
    ) -> Int64[Tensor, " n"]:
        """Labels of a set; `compute` is called for images whose label may have changed.

        Args:
            texts: class prompts.
            score: largest log density of each image now.
            compute: indices of images -> their labels and the tasks whose prompts they ran with.
            batch_size: images per call of `compute`.
            batch_decision: whether a batch of consecutive images decides as one.
        """
        key = next(
            (f"{split}.{task.name}" for split in _SPLITS if getattr(task, split) is data), ""
        )
        known, score = self._usable(key, len(data), derive_seed(*texts)), score.cpu()
        changed = known.score != score
        everything = torch.arange(len(data)).split(batch_size)
        if batch_decision:
            parts = [part for part in everything if changed[part].any()]
        else:
            parts = [part for part in changed.nonzero()[:, 0].split(batch_size) if len(part)]
        for part in parts:
            labels, tasks = compute(part)
            known.labels[part], known.task[part] = labels.cpu(), tasks.cpu()
        known.score = score.clone()
        if key:  # a set that belongs to no task has no name to be kept under
            self._known[key] = known
        return known.labels.clone()

    def _usable(self, key: str, count: int, texts: int) -> _Predictions:
        known = self._known.get(key)
        if known is not None and known.texts == texts and len(known.labels) == count:
            return known
        nothing = torch.full((count,), -1, dtype=torch.int64)
        return _Predictions(nothing, nothing.clone(), nothing.double() * torch.inf, texts)

    def forget(self, task: int) -> None:
        """The prompts of `task` moved: labels that were predicted with them are out of date."""
        for known in self._known.values():
            known.score[known.task == task] = -torch.inf

    def state_dict(self) -> dict[str, Tensor]:
        """All predictions, by "<split>.<task name>.<field>"."""
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
            self._known[key] = _Predictions(labels, task, score, int(texts))
