"""Sequential LoRA: a low-rank product at every attention weight, merged into the weights after each task.

Paper: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022; here the continual
baseline of Jo and Kim, "NuSA-CL", ICLR 2026, learned task after task with no protection.

1. Fresh factors (branches.py): A uniform in +-1/sqrt(W), B = 0, so that the task starts at the model
   before it; s = alpha / sqrt(rank). Both are trained, everything else is frozen.
2. For n = 0 .. N - 1: learning rate of step n, linear warm-up, then cosine; AdamW with weight decay.
3. Images without augmentation; text features of all classes in the first template, "_" read as a space;
   cross-entropy with label smoothing; dropout on the input of the branches.
4. After the last step W_m <- W_m + s (A B)^T, and the factors are dropped: a plain CLIP.
5. Classify by cosine with the prompt ensemble over all templates.

Deviations: query, key and value share one dropout mask; scores are the backbone's own logits, not 100
times the cosine (equal for OpenAI's weights, and never another arg-max). Details: docs/fidelity_low_rank.md.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.methods.base import Method
from vlcl_toolkit.methods.batch import LABELLED, Batch, BatchRequest
from vlcl_toolkit.methods.diki.towers import class_prompts
from vlcl_toolkit.methods.introspection import Introspection
from vlcl_toolkit.methods.low_rank.branches import Branches
from vlcl_toolkit.methods.low_rank.config import LoraConfig
from vlcl_toolkit.methods.registry import register
from vlcl_toolkit.methods.schedules import cosine_with_warmup
from vlcl_toolkit.streams.base import Task


@register
class Lora(Method):
    """Sequential LoRA, and the frame of the other low-rank methods.

    Attributes:
        trained: which factors of a branch the optimiser moves.
        branches: of the attached backbone.
    """

    name = "lora"
    trains_all = True
    trained: ClassVar[tuple[str, ...]] = ("a", "b")
    Config: ClassVar[type] = LoraConfig

    config: Any

    def __init__(self, clip: Clip, config: Any):
        super().__init__(clip, config)
        self.dropout: float = getattr(config, "dropout", 0.0)
        self.label_smoothing: float = getattr(config, "label_smoothing", 0.0)

    def scaling(self, rank: int) -> float:
        """s."""
        return self.config.alpha / (math.sqrt(rank) if self.config.rank_stabilised else rank)

    def ranks(self) -> dict[str, int]:
        """Of each tower that is trained."""
        rank, towers = self.config.rank, self.config.towers
        return dict.fromkeys(("image", "text") if towers == "both" else (towers,), rank)

    def on_attach(self) -> None:
        """Put the branches, all 0 and idle, beside the attention.

        Raises:
            UserError: the rank is above the width of a tower.
        """
        has_core = "core" in self.trained
        self.branches = Branches(self.clip.model, self.ranks(), self.scaling, has_core)
        self.branches.attach()
        for parameter in self.trainable().values():
            parameter.requires_grad_(True)

    def on_detach(self) -> None:
        """Restore the attention and its weights."""
        self.branches.detach()

    # Training.

    def enter_task(self, task_index: int, task: Task) -> None:
        """Tokenise the training prompts; the branches act until the task ends."""
        super().enter_task(task_index, task)
        self.tokens = self.clip.tokenize(class_prompts(task, "first"))
        self.branches.active = True
        self.forget_class_features()

    @torch.no_grad()
    def begin_task(self, task_index: int, task: Task, generator: torch.Generator) -> None:
        """Step 1."""
        for branch in self.branches.places.values():
            bound = branch.a.shape[1] ** -0.5
            start = torch.empty(branch.a.shape).uniform_(-bound, bound, generator=generator)
            branch.a.copy_(start)
            branch.b.zero_()

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trained factors by "<place>.<factor>"."""
        return {
            f"{place}.{name}": branch.factors[name]
            for place, branch in self.branches.places.items()
            for name in self.trained
        }

    def steps(self, task: Task) -> int:
        """Step 2: N."""
        return self.config.iterations

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Step 2."""
        decay = self.config.weight_decay
        return torch.optim.AdamW(parameters, lr=0.0, weight_decay=decay, fused=True)

    def learning_rate(self, step: int, task: Task) -> float:
        """Step 2."""
        config = self.config
        return cosine_with_warmup(step, self.steps(task), config.warmup, config.learning_rate)

    def batch_requests(self, task: Task, step: int, seed: int) -> dict[str, BatchRequest]:
        """Step 3: as usual, but by the test transform."""
        request = super().batch_requests(task, step, seed)[LABELLED]
        return {LABELLED: request._replace(transform=self.clip.eval_transform)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Step 3."""
        with self.branches.training(self.dropout):
            logits = self.training_logits(self.clip.encode_image(batch.images))
        return {"loss": F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)}

    def training_logits(self, features: Float[Tensor, "b dim"]) -> Float[Tensor, "b classes"]:
        """Of unit-norm image features, over the classes of the task; with a gradient into the text tower."""
        return self.clip.logits(features, self.clip.encode_text(self.tokens))

    def end_task(self, task_index: int, task: Task) -> None:
        """Step 4."""
        for branch in self.branches.places.values():
            branch.merge()
            branch.reset()
        self.branches.active = False
        self.forget_class_features()

    # Classifying.

    @torch.no_grad()
    def predict(self, images: Float[Tensor, "b 3 h w"], task: Task) -> Float[Tensor, "b classes"]:
        """Step 5."""
        return self.clip.logits(self.clip.encode_image(images), self.class_features(task))

    def class_features(self, task: Task) -> Float[Tensor, "classes dim"]:
        """Features of the test prompts, computed once until weights change."""
        if self.config.test_templates == "all" or task.parts:
            return super().class_features(task)
        if task not in self._class_features:
            with torch.no_grad():
                tokens = self.clip.tokenize(class_prompts(task, "first"))
                self._class_features[task] = self.clip.encode_text(tokens)
        return self._class_features[task]

    def introspection(self) -> Introspection:
        """A single route, whose class features are those of `predict`."""
        return LowRankIntrospection(self)

    # Saving.

    def state_dict(self) -> dict[str, Tensor]:
        """The attention's weights, and the factors of a task that has begun."""
        return self.branches.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        self.branches.load_state_dict(state)
        self.forget_class_features()


class LowRankIntrospection(Introspection):
    """What probes may ask."""

    def route_class_features(
        self, task: Task, route: int, strengths: Float[Tensor, " sets"] | None = None
    ) -> Float[Tensor, "sets classes dim"]:
        """By the test prompts, through the text tower: whoever watches it must see them pass."""
        self.method.forget_class_features()
        return self.method.class_features(task)[None]
