"""The interface of a continual-learning method.

Ten methods make one that trains:

    on_attach, on_detach                what it changes in the backbone, and how that is undone
    trainable, steps                    what is trained in a task, and for how many steps
    optimizer, learning_rate            how
    loss                                of a batch of labelled images
    predict                             logits of unlabelled images
    state_dict, load_state_dict         what a checkpoint holds

A method that trains nothing needs only `predict`. All others have a default that does what most
methods need; override those in whose place something else happens. A run calls a method in this
order:

    attach
    enter_stream                        once, before the first task
    for each task:
        enter_task                      also when a run resumes in the middle of a task
        begin_task                      once per task
        for each step:
            batch_requests              which images the step needs
            learning_rate
            prepare, loss               on the batch of these images
            after_backward              the gradients are there
            after_step                  the optimiser has moved
        end_task
        predict                         on every task of the stream
    detach
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.batch import LABELLED, Batch, BatchRequest
from vlcl_toolkit.methods.inference import class_features, predicted_labels, run_batches
from vlcl_toolkit.methods.introspection import Introspection
from vlcl_toolkit.seeds import derive_seed
from vlcl_toolkit.streams.base import ImageData, Task, TaskStream, batches


class Method(ABC):
    """What is trained, what the loss of a batch is, and how an image is classified.

    Attributes:
        name: under which it is registered.
        Config: frozen dataclass of its settings; the defaults are the paper's.
        decision: "sample" (each image decides alone) or "batch" (a test batch decides as one).
        task_found_by: how the task of a test image is guessed, by methods that need to know it.
        eval_batch_size: images that `predict` gets at once.
        trains_all: the loss of every batch depends on every parameter in `trainable`; saves several
            ranks a search for those that have no gradient.
        relative_cost: of a step, roughly, beside one of fine-tuning; 0: no step is taken. Decides which of
            several runs begins first.
        uses_reference: whether reference data of the stream decide its numbers, see `TaskStream`.
        clip, config: the backbone it attaches to; its settings.
        task_index, task: the task being learned, set by `enter_task`.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    decision: str = "sample"
    task_found_by: str | None = None
    eval_batch_size: int = 128
    trains_all: ClassVar[bool] = False
    relative_cost: ClassVar[float] = 1.0
    uses_reference: bool = False
    task_index: int
    task: Task

    def __init__(self, clip: Clip, config: Any):
        self.clip, self.config = clip, config
        self._attached = False
        self._class_features: dict[Task, Tensor] = {}

    # Attaching to the backbone.

    def attach(self) -> None:
        """Take hold of the backbone.

        Raises:
            UserError: a method holds it already.
        """
        if self.clip.holder is not None:
            raise UserError(
                f"this backbone is held by a method ({self.clip.holder!r}); detach that one, "
                "or load another backbone"
            )
        self.on_attach()
        self.clip.holder = self.name
        self._attached = True

    def detach(self) -> None:
        """Give the backbone back, bit-identical to what it was before `attach`."""
        if self._attached:
            self.on_detach()
            self.forget_class_features()
            self.clip.holder = None
            self._attached = False

    def on_attach(self) -> None:
        """Change the backbone: replace forwards, unfreeze, ..."""

    def on_detach(self) -> None:
        """Undo `on_attach` and everything that training changed, bit for bit."""

    def __enter__(self) -> "Method":
        self.attach()
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    # Training.

    def enter_stream(self, stream: TaskStream) -> None:
        """What concerns the whole stream, e.g. taking its reference material."""

    def enter_task(self, task_index: int, task: Task) -> None:
        """What is cheap and follows from the task alone; `task_index` counts from 0.

        Called before `begin_task`, and after `load_state_dict` when a run resumes inside the task.
        """
        self.task_index, self.task = task_index, task

    def begin_task(self, task_index: int, task: Task, generator: torch.Generator) -> None:
        """What happens once before the first step; its results belong to `state_dict`.

        Args:
            generator: a CPU generator seeded by the run's seed and `task_index`.
        """

    def trainable(self) -> dict[str, nn.Parameter]:
        """What the optimiser trains in this task, by name, always in the same order."""
        return {}

    def steps(self, task: Task) -> int:
        """Number of optimisation steps for this task."""
        return 0

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """A fresh optimiser for the parameters in `trainable`."""
        raise NotImplementedError(f"{self.name} trains, so it must define optimizer")

    def learning_rate(self, step: int, task: Task) -> float:
        """Learning rate of step `step` (from 0), set before the step."""
        raise NotImplementedError(f"{self.name} trains, so it must define learning_rate")

    def batch_requests(self, task: Task, step: int, seed: int) -> dict[str, BatchRequest]:
        """Which images step `step` needs, by name; depends on the arguments alone.

        The images of `LABELLED` are learned. A name stands for one data set throughout a task.
        The default: batches of `config.batch_size` from shuffled epochs, training transform.
        """
        indices = batches(len(task.train), self.config.batch_size, step, seed)
        transform = self.clip.train_transform
        return {LABELLED: BatchRequest(task.train, indices, transform, derive_seed(seed, step))}

    def prepare(self, batch: Batch) -> Batch:
        """Called once per step before `loss`, without gradient.

        Put into `batch.prepared` what is the same for all micro-batches, e.g. a teacher's features:
        `loss` is called again for each of them.
        """
        return batch

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of one batch: "loss" is minimised, the others are only logged.

        Each of several ranks (`sharding.py`) has some of the images and all of the labels;
        `clip.encode_image` gives all of them the features of the whole batch.
        """
        raise NotImplementedError(f"{self.name} trains, so it must define loss")

    def after_backward(self, step: int) -> None:
        """Change gradients before the optimiser moves (e.g. add a closed-form penalty)."""

    def after_step(self, step: int) -> None:
        """React to the optimiser's step (e.g. average weights, validate an epoch)."""
        self.forget_class_features()

    def end_task(self, task_index: int, task: Task) -> None:
        """What happens once after the last step, before every task is tested."""

    # Classifying.

    @abstractmethod
    def predict(self, images: Float[Tensor, "b 3 h w"], task: Task) -> Float[Tensor, "b classes"]:
        """Logits of unlabelled, transformed images over the classes of `task`; no gradient."""

    def classify(self, data: ImageData, task: Task) -> Int64[Tensor, " n"]:
        """Predicted labels, in file order, on the CPU.

        Override to reuse what cannot have changed since the last call.
        """
        return predicted_labels(
            lambda images: self.predict(images, task), self.clip, data, self.eval_batch_size
        )

    def features(
        self,
        data: ImageData,
        indices: Int64[Tensor, " n"] | None = None,
        *,
        batch_size: int = 256,
    ) -> Float[Tensor, "n dim"]:
        """Unit-norm features by the image tower as it is now, test transform, in file order.

        Args:
            indices: of the images wanted; None: all.
            batch_size: images at once; the last digits depend on it.
        """
        parts = run_batches(self.clip.encode_image, self.clip, data, batch_size, indices)
        nothing = torch.empty(0, self.clip.embed_dim, device=self.clip.device)
        return torch.cat([nothing, *parts])

    def class_features(self, task: Task) -> Float[Tensor, "classes dim"]:
        """Prompt-ensemble features of the task's classes, computed once until weights change."""
        if task.parts:
            return torch.cat([self.class_features(part) for part in task.parts])
        if task not in self._class_features:
            with torch.no_grad():
                self._class_features[task] = class_features(self.clip, task)
        return self._class_features[task]

    def forget_class_features(self) -> None:
        """Call whenever the weights of the text tower may have changed."""
        self._class_features.clear()

    def introspection(self) -> Introspection:
        """What probes may ask; the default fits a method with one way through the network."""
        return Introspection(self)

    # Saving.

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that was trained or gathered: enough to predict and to go on training."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`, on an attached method."""
        if state:
            raise ValueError(f"{self.name} saves nothing, so it cannot load {sorted(state)[:3]}")
