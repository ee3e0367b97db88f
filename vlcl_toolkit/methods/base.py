"""What every continual-learning method is: one interface.

A run calls a method in this order:

    attach
    enter_stream                        once, before the first task
    for each task:
        enter_task                      also when a run resumes in the middle of a task
        begin_task                      once per task
        for each step: learning_rate, loss, (backward) after_backward, (optimiser) after_step
        end_task
        predict                         on every task of the stream
    detach
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.introspection import Introspection
from vlcl_toolkit.seeds import derive_seed
from vlcl_toolkit.sharding import gather_predictions
from vlcl_toolkit.streams.base import ImageData, Task, TaskStream, batches, load_batch
from vlcl_toolkit.streams.data import Draw


class Method(Introspection, ABC):
    """Says what is trained, what the loss of a batch is, and how an image is classified.

    A method that trains nothing needs only `predict`. One that trains also defines `trainable`,
    `steps`, `optimizer`, `learning_rate`, `loss`, `state_dict` and `load_state_dict`.

    Attributes:
        name: under which it is registered.
        Config: frozen dataclass of its settings; the defaults are the paper's.
        decision: "sample" (each image decides alone) or "batch" (a test batch decides together).
        eval_batch_size: images that `predict` gets at once.
        trains_all: the loss of every batch depends on every parameter in `trainable`; saves several
            processes a search for those that have no gradient.
        clip, config: the backbone it attaches to; its settings.
        task_index, task: the task being learned, set by `enter_task`.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    decision: str = "sample"
    eval_batch_size: int = 128
    trains_all: ClassVar[bool] = False
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
        """Take what concerns the whole stream, e.g. its reference material."""

    def enter_task(self, task_index: int, task: Task) -> None:
        """Turn to task `task_index` (from 0): what is cheap and follows from the task alone.

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

    def draws(self, task: Task, step: int, seed: int) -> list[Draw]:
        """What step `step` looks at, the labelled images first; depends on the arguments alone.

        The default: batches of `config.batch_size` from shuffled epochs, training transform.
        """
        indices = batches(len(task.train), self.config.batch_size, step, seed)
        transform = self.clip.train_transform
        return [Draw(task.train, indices, transform, derive_seed(seed, step))]

    def receive(
        self, draws: list[Draw], images: list[Float[Tensor, "_ 3 h w"]], step: int, seed: int
    ) -> Float[Tensor, "part 3 h w"]:
        """Take what was loaded for `draws` of this step; returns the labelled images, for `loss`."""
        return images[0]

    def training_batch(
        self, task: Task, step: int, seed: int
    ) -> tuple[Float[Tensor, "part 3 h w"], Int64[Tensor, " b"]]:
        """Images and labels of step `step`, loaded here and now."""
        draws = self.draws(task, step, seed)
        loaded = [load_batch(*draw) for draw in draws]
        return self.receive(draws, [images for images, _ in loaded], step, seed), loaded[0][1]

    def loss(
        self, images: Float[Tensor, "part 3 h w"], labels: Int64[Tensor, " b"], step: int
    ) -> dict[str, Tensor]:
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

    @torch.no_grad()
    def classify(self, data: ImageData, task: Task) -> Int64[Tensor, " n"]:
        """Predicted labels, in file order, on the CPU.

        Override to reuse what cannot have changed since the last call.
        """

        def answer(indices: Tensor) -> Tensor:
            images, _ = load_batch(data, indices, self.clip.eval_transform)
            return self.predict(images.to(self.clip.device), task).argmax(dim=1)

        parts = torch.arange(len(data)).split(self.eval_batch_size)
        return gather_predictions(parts if len(data) else (), answer, self.clip.device)

    def class_features(self, task: Task) -> Float[Tensor, "classes dim"]:
        """Prompt-ensemble features of the task's classes, computed once until weights change."""
        if task not in self._class_features:
            with torch.no_grad():
                features = self.clip.class_features(task.class_names, task.templates)
            self._class_features[task] = features
        return self._class_features[task]

    def forget_class_features(self) -> None:
        """Call whenever the weights of the text tower may have changed."""
        self._class_features.clear()

    # Saving.

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that was trained or gathered: enough to predict and to go on training."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`, on an attached method."""
        if state:
            raise ValueError(f"{self.name} saves nothing, so it cannot load {sorted(state)[:3]}")


def percent_correct(
    predict: Callable[[Tensor], Tensor], clip: Clip, data: ImageData, batch_size: int
) -> float:
    """Percent of images whose largest logit is the label's, in file order; nan for no image.

    Args:
        predict: float images `[b, 3, h, w]` on the model's device -> logits `[b, classes]`.
    """
    if not len(data):
        return float("nan")
    correct = 0
    for indices in torch.arange(len(data)).split(batch_size):
        images, labels = load_batch(data, indices, clip.eval_transform)
        with torch.no_grad():
            logits = predict(images.to(clip.device))
        correct += int((logits.argmax(dim=1).cpu() == labels).sum())
    return 100 * correct / len(data)
