"""Continual fine-tuning: train the whole model on one task after another, with no protection.

Paper: Zheng et al., "Preventing Zero-Shot Transfer Degradation in Continual Learning of
Vision-Language Models" (ZSCL), ICCV 2023; the baseline "continual learning" of its repository.

1. Start from the weights after the previous task; fresh AdamW moments and schedule. Every parameter
   of both towers is trained, logit_scale is not.
2. For n = 0 .. N (N + 1 steps): learning rate of step n, linear warm-up, then cosine to exactly 0.
3. Text features T of all classes in the first template, image features I of the batch, normalised;
   loss = cross-entropy(s I T^t, labels) with label smoothing, s = exp(logit_scale).
4. AdamW step without weight decay or gradient clipping.
5. Classify with the prompt ensemble over all templates.

Deviations: the repository classifies with the constant 100 instead of s (`eval_scale=100`; equal
for OpenAI's weights, and never another arg-max). Its learning rate is 5e-5 for Aircraft and MNIST
(`task_learning_rates`).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlcl_toolkit.methods.base import Method
from vlcl_toolkit.methods.batch import Batch
from vlcl_toolkit.methods.registry import register
from vlcl_toolkit.methods.schedules import cosine_with_warmup
from vlcl_toolkit.methods.zscl.config import FinetuneConfig
from vlcl_toolkit.streams.base import Task


@register
class Finetune(Method):
    """Plain fine-tuning of both towers."""

    name = "finetune"
    trains_all = True
    Config = FinetuneConfig

    config: FinetuneConfig

    def on_attach(self) -> None:
        """Unfreeze both towers and remember their weights."""
        for parameter in self.trainable().values():
            parameter.requires_grad_(True)
        self._before = {name: value.detach().clone() for name, value in self.trainable().items()}

    def on_detach(self) -> None:
        """Restore the weights from before `attach` and freeze them."""
        self.load_state_dict(self._before)
        for parameter in self.trainable().values():
            parameter.requires_grad_(False)
            parameter.grad = None

    def trainable(self) -> dict[str, nn.Parameter]:
        """Step 1: every parameter but the logit scale."""
        parameters = self.clip.model.named_parameters()
        return {name: value for name, value in parameters if name != "logit_scale"}

    def enter_task(self, task_index: int, task: Task) -> None:
        """Tokenise the training prompts: the first template."""
        super().enter_task(task_index, task)
        self.tokens = self.clip.tokenize(task.prompts(0))

    def last_step(self, task: Task) -> int:
        """Step 2: N."""
        if self.config.epochs is None:
            return self.config.iterations
        return self.config.epochs * -(-len(task.train) // self.config.batch_size)

    def steps(self, task: Task) -> int:
        """Step 2: n = 0 .. N."""
        return self.last_step(task) + 1

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Step 4. With weight decay 0 this is Adam."""
        decay = self.config.weight_decay
        return torch.optim.AdamW(parameters, lr=0.0, weight_decay=decay, fused=True)

    def learning_rate(self, step: int, task: Task) -> float:
        """Step 2."""
        peak = self.config.task_learning_rates.get(task.name, self.config.learning_rate)
        return cosine_with_warmup(step, self.last_step(task), self.config.warmup, peak)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Step 3."""
        features = self.clip.encode_image(batch.images)
        return {"loss": self.classification_loss(features, batch.labels)}

    def classification_loss(
        self, image_features: Float[Tensor, "b dim"], labels: Int64[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        """Step 3, from unit-norm image features on."""
        logits = self.clip.logits(image_features, self.clip.encode_text(self.tokens))
        return F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)

    @torch.no_grad()
    def predict(self, images: Float[Tensor, "b 3 h w"], task: Task) -> Float[Tensor, "b classes"]:
        """Step 5."""
        features, classes = self.clip.encode_image(images), self.class_features(task)
        if self.config.eval_scale is None:
            return self.clip.logits(features, classes)
        return self.config.eval_scale * features @ classes.T

    def state_dict(self) -> dict[str, Tensor]:
        """The trained weights."""
        return {name: value.detach() for name, value in self.trainable().items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy weights into the backbone."""
        for name, parameter in self.trainable().items():
            parameter.copy_(state[name])
        self.forget_class_features()
