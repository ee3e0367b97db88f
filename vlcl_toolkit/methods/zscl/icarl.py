"""iCaRL as a baseline of ZSCL: distil from the frozen CLIP on images kept from earlier tasks.

Papers: Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017;
Zheng et al., "Preventing Zero-Shot Transfer Degradation ..." (ZSCL), ICCV 2023.

1. First task: fine-tuning. Later: as ZSCL (zscl.py) without consolidation and averaging, distilling
   on the memory, which is walked in order, again and again; reference texts: the task's prompts.
2. After task t, every older task keeps the first K // t images of its memory.
3. The new task adds images by herding: pick k is the image that brings the mean of the picked
   features closest to the mean of all features (of the model just trained, unit norm).

Corrected: herding is done class by class, each task keeps K // t images, spread over its classes.
`faithful_memory=True` repeats the official code: the first task keeps its first K images, a later
one picks K - K // t (the memory outgrows K from the third task on) with no regard to classes, and
its list of images is not shortened with its features, so that later picks fetch wrong images.
The official script sets neither distillation flag (`image_side=False, text_side="off"`).
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlcl_toolkit.methods.registry import register
from vlcl_toolkit.methods.zscl.config import IcarlConfig
from vlcl_toolkit.methods.zscl.zscl import Zscl
from vlcl_toolkit.streams.base import ImageData, Task
from vlcl_toolkit.streams.pictures import joined


def herd(
    features: Float[Tensor, "n dim"], count: int, *, shifted: bool = False
) -> Int64[Tensor, " m"]:
    """Step 3: indices of up to `count` features whose running mean follows the mean of all.

    Args:
        shifted: give the positions in the list that shrinks with every pick, as the official code
            does by mistake, instead of the indices.
    """
    mean, total = features.mean(dim=0), torch.zeros_like(features[0])
    left = list(range(len(features)))
    picks, positions = [], []
    for k in range(min(count, len(features))):
        distance = (mean - (features[left] + total) / (k + 1)).square().sum(dim=1)
        position = int(distance.argmin())
        total = total + features[left[position]]
        positions.append(position)
        picks.append(left.pop(position))
    return torch.tensor(positions if shifted else picks, dtype=torch.int64)


def herd_by_class(
    features: Float[Tensor, "n dim"], labels: Int64[Tensor, " n"], count: int
) -> Int64[Tensor, " m"]:
    """Up to `count` indices: the first pick of every class, then the second of every class, ...

    Any prefix is as balanced as it can be, so that a memory can be shortened at its end.
    """
    ranked = []
    for label in labels.unique(sorted=True):
        own = (labels == label).nonzero()[:, 0]
        ranked.append(own[herd(features[own], count)].tolist())
    rounds = range(max(map(len, ranked), default=0))
    order = [picks[r] for r in rounds for picks in ranked if r < len(picks)]
    return torch.tensor(order[:count], dtype=torch.int64)


@register
class Icarl(Zscl):
    """Fine-tuning with distillation on a memory of images."""

    name = "icarl"

    Config = IcarlConfig
    has_memory = True
    config: IcarlConfig
    memory: dict[int, Tensor]  # task index -> indices of its training images

    _memory_images: ImageData | None

    def on_attach(self) -> None:
        """As in ZSCL."""
        self.memory, self._memory_images = {}, None
        super().on_attach()

    def on_detach(self) -> None:
        """Forget the memory."""
        super().on_detach()
        self.memory, self._memory_images = {}, None

    def enter_task(self, task_index: int, task: Task) -> None:
        """The memory may have changed."""
        super().enter_task(task_index, task)
        self._memory_images = None

    def begin_task(self, task_index: int, task: Task, generator: torch.Generator) -> None:
        """Step 2 and 3, if the memory is updated first."""
        super().begin_task(task_index, task, generator)
        if self.config.memory_update == "before_task":
            self.update_memory(task_index, task)

    def distillation_images(self) -> ImageData | None:
        """Step 1: the images in memory, oldest task first."""
        if self.memory and self._memory_images is None:
            kept = [self.stream[t].train.subset(indices) for t, indices in self.memory.items()]
            self._memory_images = joined(kept)
        return self._memory_images

    def distillation_indices(self, n: int, step: int, seed: int) -> Int64[Tensor, " b"]:
        """Step 1: in order."""
        size = self.config.reference_batch_size or self.config.batch_size
        return torch.arange(n).split(size)[step % -(-n // size)]

    def end_task(self, task_index: int, task: Task) -> None:
        """Step 2 and 3."""
        super().end_task(task_index, task)
        if self.config.memory_update == "after_task":
            self.update_memory(task_index, task)

    def update_memory(self, task_index: int, task: Task) -> None:
        """Steps 2 and 3 with the features of the model as it is."""
        candidates = torch.arange(min(self.config.candidates, len(task.train)))
        by_order = self.config.faithful_memory and not self.memory  # no feature is looked at
        features = None if by_order else self.features(task.train, candidates).cpu()
        self.remember(task_index, task.train.labels[candidates], features)

    def remember(
        self,
        task_index: int,
        labels: Int64[Tensor, " n"],
        features: Float[Tensor, "n dim"] | None,
    ) -> None:
        """Steps 2 and 3.

        Args:
            labels, features: of the new task's candidates, in the order of its images; the faithful
                memory of a first task needs no features.
        """
        size, learned = self.config.memory_size, len(self.memory) + 1
        quota = size // learned
        self.memory = {t: indices[:quota] for t, indices in self.memory.items()}
        if features is None:
            self.memory[task_index] = torch.arange(min(size, len(labels)))
        elif self.config.faithful_memory:
            count = size if learned == 1 else size - quota
            self.memory[task_index] = herd(features, count, shifted=True)
        else:
            self.memory[task_index] = herd_by_class(features, labels, quota)

    def state_dict(self) -> dict[str, Tensor]:
        """As in ZSCL, and the memory."""
        return super().state_dict() | {f"memory.{t}": i for t, i in self.memory.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        numbers = sorted(int(k.removeprefix("memory.")) for k in state if k.startswith("memory."))
        self.memory = {t: state[f"memory.{t}"].cpu() for t in numbers}
        self._memory_images = None
