"""KeepLoRA: LoRA that stays out of the directions which pre-training and earlier tasks use.

Paper: Luo et al., "KeepLoRA", ICLR 2026; its code, folder MTIL. Weights as stored: W_m [out, in].

1. Once, for every attention weight: an orthonormal basis U [W, n] of its leading singular vectors, as
   many as hold `weight_share` of the squared singular values (subspaces.py).
2. Before each task: G, the mean gradient of the cross-entropy over the task's images, by W_m.
3. X = (I - U U^T) G^T, X ~ A S V^T with `rank` singular values. A is frozen, B starts at B0 = S V^T;
   W_m <- W_m - s (A B0)^T, s = alpha / rank, so that the function is as before.
4. Train B by AdamW: one-cycle learning rate, whose beta1 goes up and down too; no augmentation, first
   template, no label smoothing.
5. Merge: W_m <- W_m + s (A B)^T. Every change of a weight is in the span of A, outside U.
6. From the inputs of every attention weight, over the task's images and prompts, extend U until it holds
   `feature_share` of their squares.
7. KeepLoRA+ (`classifier`): per task a cosine classifier on image features, from the class means, trained
   with B; it is added to the text logits wherever that task's classes are asked about.
8. Classify by cosine with the first template.

Nothing of a task survives but the merged weights, U and (step 7) the classifier. Corrected: exact SVD in
place of a randomised one, and no direction where the gradient is rounding alone. Faithful, though one
would not expect it: left singular vectors in step 1 (`weight_side`), mean feature matrices (`features`)
and prompts with their padding (`text_positions`) in step 6. Details: docs/fidelity_low_rank.md.
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vlcl_toolkit.clip.model import Clip, encode_tokens
from vlcl_toolkit.methods.low_rank.branches import MODULES, Branch
from vlcl_toolkit.methods.low_rank.config import KeepLoraConfig
from vlcl_toolkit.methods.low_rank.lora import Lora
from vlcl_toolkit.methods.low_rank.subspaces import (
    BatchMean,
    SecondMoment,
    extended_basis,
    first_basis,
    gram,
    outside,
)
from vlcl_toolkit.methods.registry import register
from vlcl_toolkit.methods.schedules import one_cycle
from vlcl_toolkit.streams.base import Task, TaskStream, load_batch

_ROUNDING = 1e-5  # singular values below this share of the largest one are not the gradient's
_TEXTS_AT_ONCE = 512


@register
class KeepLora(Lora):
    """LoRA outside of a protected subspace.

    Attributes:
        bases: U by place, one for each of MODULES.
        classifiers: of KeepLoRA+, by task name.
    """

    name = "keeplora"
    trained = ("b",)
    Config = KeepLoraConfig

    config: KeepLoraConfig

    def __init__(self, clip: Clip, config: KeepLoraConfig):
        super().__init__(clip, config)
        self.bases: dict[str, list[Tensor]] = {}
        self.classifiers: dict[str, nn.Parameter] = {}

    def scaling(self, rank: int) -> float:
        """s."""
        return self.config.alpha / rank

    def ranks(self) -> dict[str, int]:
        """Of each tower that is trained."""
        ranks = super().ranks()
        if "text" in ranks:
            ranks["text"] = self.config.rank_text or self.config.rank
        return ranks

    def on_attach(self) -> None:
        """As LoRA; nothing is protected yet."""
        super().on_attach()
        self.bases, self.classifiers = {}, {}

    def on_detach(self) -> None:
        """As LoRA."""
        super().on_detach()
        for branch in self.branches.places.values():
            for weight in branch.weights.values():
                weight.requires_grad_(False)
                weight.grad = None

    def enter_stream(self, stream: TaskStream) -> None:
        """Note the tasks, whose classifiers are saved by name."""
        self.stream = stream

    # Steps 1 to 3.

    def begin_task(self, task_index: int, task: Task, generator: torch.Generator) -> None:
        """Steps 1 to 3, and the start of 7."""
        for branch in self.branches.places.values():
            branch.reset()
        if not self.bases:
            self.bases = self.weight_bases()
        means = self.accumulate_gradients(task, self.passes(task, generator))
        for place, branch in self.branches.places.items():
            gradients = branch.stacked_gradients()
            for weight in branch.weights.values():
                weight.grad = None
            self.start(branch, gradients, self.bases[place], generator)
            branch.merge(-1)
        if self.config.classifier:
            self.classifiers[task.name].data.copy_(means)

    @torch.no_grad()
    def weight_bases(self) -> dict[str, list[Tensor]]:
        """Step 1."""
        config, bases = self.config, {}
        for place, branch in self.branches.places.items():
            share = config.weight_share if _of_images(place) else config.weight_share_text
            weights = branch.stacked_weights()
            sides = weights if config.weight_side == "stored_left" else weights.mT
            bases[place] = [first_basis(gram(side), share).contiguous() for side in sides]
        return bases

    def passes(self, task: Task, generator: torch.Generator | None) -> list[Tensor]:
        """Indices of the batches of one pass over the task's images, shuffled.

        A last one that is not full is left out unless `keep_incomplete`, or unless it is the only one.
        """
        size = self.config.batch_size
        found = list(torch.randperm(len(task.train), generator=generator).split(size))
        if len(found) > 1 and len(found[-1]) < size and not self.config.keep_incomplete:
            found.pop()
        return found

    def accumulate_gradients(
        self, task: Task, passes: list[Tensor]
    ) -> Float[Tensor, "classes dim"]:
        """Step 2: G into the `grad` of the attention's weights.

        The text tower runs once: the gradient by its features is a sum over batches.

        Returns:
            the mean image feature of each class, unit-norm (0 for a class without an image).
        """
        weights = [w for b in self.branches.places.values() for w in b.weights.values()]
        total = sum(map(len, passes))
        precision, self.clip.precision = self.clip.precision, "fp32"  # small ones vanish in fp16
        self.branches.active = False
        try:
            for weight in weights:
                weight.requires_grad_(True)
                weight.grad = torch.zeros_like(weight)
            with torch.enable_grad():
                texts = self.clip.encode_text(self.tokens)
                shared = texts.detach().requires_grad_()
                means = torch.zeros_like(texts)
                for indices in passes:
                    images, labels = load_batch(task.train, indices, self.clip.eval_transform)
                    labels = labels.to(self.clip.device)
                    features = self.clip.encode_image(images.to(self.clip.device))
                    logits = self.clip.logits(features, shared)
                    (F.cross_entropy(logits, labels, reduction="sum") / total).backward()
                    means.data.index_add_(0, labels, features.detach())
                if texts.requires_grad:
                    assert shared.grad is not None
                    texts.backward(shared.grad)
        finally:
            self.branches.active, self.clip.precision = True, precision
            for weight in weights:
                weight.requires_grad_(False)
        return F.normalize(means.detach(), dim=1)

    @torch.no_grad()
    def start(
        self,
        branch: Branch,
        gradients: Float[Tensor, "4 out in"],
        bases: list[Tensor],
        generator: torch.Generator,
    ) -> None:
        """Step 3: A and B0 of one attention. Where U fills the whole space, both stay 0."""
        rank = branch.a.shape[2]
        for module, (gradient, basis) in enumerate(zip(gradients, bases, strict=True)):
            width, protected = basis.shape
            if protected == width:
                continue
            if not self.config.gradient_start:
                drawn = torch.randn(width, rank, generator=generator).to(basis)
                free = torch.linalg.qr(outside(drawn, basis)).Q[:, : width - protected]
                branch.a[module, :, : free.shape[1]] = free
                continue
            left, values, right = torch.linalg.svd(outside(gradient.T, basis), full_matrices=False)
            count = rank
            if not self.config.faithful_rank:
                count = min(rank, int((values > _ROUNDING * values[0]).sum()))
            branch.a[module, :, :count] = left[:, :count]
            branch.b[module, :count] = values[:count, None] * right[:count]

    # Step 4.

    def enter_task(self, task_index: int, task: Task) -> None:
        """As LoRA; room for the classifier."""
        super().enter_task(task_index, task)
        if self.config.classifier and task.name not in self.classifiers:
            self._add_classifier(task)

    def _add_classifier(self, task: Task) -> nn.Parameter:
        shape = (len(task.class_names), self.clip.embed_dim)
        self.classifiers[task.name] = nn.Parameter(torch.zeros(shape, device=self.clip.device))
        return self.classifiers[task.name]

    def trainable(self) -> dict[str, nn.Parameter]:
        """B at every place, and the task's classifier."""
        parameters = super().trainable()
        current = self.classifiers.get(self.task.name) if hasattr(self, "task") else None
        return parameters if current is None else parameters | {"classifier": current}

    def steps(self, task: Task) -> int:
        """As many as the epochs have batches, incomplete ones included."""
        epochs = self.config.task_epochs.get(task.name, self.config.epochs)
        return epochs * -(-len(task.train) // self.config.batch_size)

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW, whose beta1 `after_backward` sets."""
        self._optimizer = super().optimizer(parameters)
        return self._optimizer

    def learning_rate(self, step: int, task: Task) -> float:
        """One cycle."""
        return one_cycle(step, self.steps(task), self.config.learning_rate)[0]

    def after_backward(self, step: int) -> None:
        """One cycle of beta1."""
        beta = one_cycle(step, self.steps(self.task), self.config.learning_rate)[1]
        for group in self._optimizer.param_groups:
            group["betas"] = (beta, group["betas"][1])

    def training_logits(self, features: Float[Tensor, "b dim"]) -> Float[Tensor, "b classes"]:
        """With the task's classifier."""
        return super().training_logits(features) + self.classifier_logits(features, self.task)

    # Steps 5 and 6.

    @torch.no_grad()
    def end_task(self, task_index: int, task: Task) -> None:
        """Steps 5 and 6."""
        super().end_task(task_index, task)
        config = self.config
        for place, moments in self.feature_moments(task).items():
            share = config.feature_share if _of_images(place) else config.feature_share_text
            # Contiguous, as it is read back: rounding of a product depends on how its factors lie.
            self.bases[place] = [
                extended_basis(
                    basis, moments["o" if module == "o" else "qkv"].moments(), share
                ).contiguous()
                for basis, module in zip(self.bases[place], MODULES, strict=True)
            ]

    def feature_moments(self, task: Task) -> dict[str, dict[str, BatchMean | SecondMoment]]:
        """Step 6: features by place, "qkv": before the attention, "o": before its output projection."""
        found: dict[str, dict[str, BatchMean | SecondMoment]] = {
            place: {} for place in self.branches.places
        }
        mean = self.config.features == "batch_mean"
        new: Callable[[], BatchMean | SecondMoment] = BatchMean if mean else SecondMoment

        def images_pass(place: str, query: Tensor, joined: Tensor) -> None:
            for name, x in (("qkv", query), ("o", joined)):
                found[place].setdefault(name, new()).add(x)

        def texts_pass(counted: Tensor, place: str, query: Tensor, joined: Tensor) -> None:
            # A mean over one batch has the same moments as its features.
            for name, x in (("qkv", query), ("o", joined)):
                moments = cast(SecondMoment, found[place].setdefault(name, SecondMoment()))
                moments.add(x, counted)

        if any(map(_of_images, found)):
            with self.branches.listening(images_pass):
                for indices in self.passes(task, None):
                    images, _ = load_batch(task.train, indices, self.clip.eval_transform)
                    self.clip.encode_image(images.to(self.clip.device))
        if not all(map(_of_images, found)):
            for tokens in self.tokens.split(_TEXTS_AT_ONCE):
                length = tokens.shape[1]
                counted = torch.ones_like(tokens, dtype=torch.bool)
                if self.config.text_positions == "to_end":
                    ends = tokens.argmax(dim=1, keepdim=True)
                    counted = torch.arange(length, device=tokens.device) <= ends
                with self.branches.listening(partial(texts_pass, counted)), self.clip.autocast():
                    encode_tokens(self.clip.model, tokens, length=length)
        return found

    # Classifying.

    @torch.no_grad()
    def predict(self, images: Float[Tensor, "b 3 h w"], task: Task) -> Float[Tensor, "b classes"]:
        """Step 8, and 7 for tasks that were learned."""
        features = self.clip.encode_image(images)
        logits = self.clip.logits(features, self.class_features(task))
        return logits + self.classifier_logits(features, task)

    def classifier_logits(
        self, features: Float[Tensor, "b dim"], task: Task
    ) -> Float[Tensor, "b classes"]:
        """Step 7; 0 for classes of a task that has no classifier."""
        parts = []
        for part in task.parts or (task,):
            classifier = self.classifiers.get(part.name)
            if classifier is None:
                parts.append(features.new_zeros(len(features), len(part.class_names)))
            else:
                cosines = features @ F.normalize(classifier, dim=1).T
                parts.append(self.config.classifier_scale * cosines)
        return torch.cat(parts, dim=1)

    # Saving.

    def state_dict(self) -> dict[str, Tensor]:
        """As LoRA, and U; KeepLoRA+: the classifiers, by the number of their task."""
        state = super().state_dict()
        for place, bases in self.bases.items():
            for module, basis in zip(MODULES, bases, strict=True):
                state[f"{place}.basis.{module}"] = basis
        for name, classifier in self.classifiers.items():
            state[f"classifier.{self.stream.names.index(name)}"] = classifier.detach()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`, in the stream that it was learned in."""
        super().load_state_dict(state)
        device, places = self.clip.device, self.branches.places
        self.bases, self.classifiers = {}, {}
        for place in places:
            if f"{place}.basis.q" in state:
                names = [f"{place}.basis.{module}" for module in MODULES]
                self.bases[place] = [state[name].to(device) for name in names]
        for index, task in enumerate(self.stream):
            if f"classifier.{index}" in state:
                self._add_classifier(task).data.copy_(state[f"classifier.{index}"])


def _of_images(place: str) -> bool:
    return place.startswith("visual.")
