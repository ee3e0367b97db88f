"""ZSCL: distil from the frozen CLIP on reference material while learning a task.

Paper: Zheng et al., "Preventing Zero-Shot Transfer Degradation in Continual Learning of
Vision-Language Models", ICCV 2023.

1. Both towers are trained (see finetune.py for schedule, cross-entropy and classification).
2. Each step takes a batch of reference images without labels. Teacher: the frozen CLIP. With unit-
   norm features, S of the images from the student, Z of the images and T of all reference texts
   from the teacher, and the scale s: A = s S T^t (student), B = s Z T^t (teacher).
3. Image side: cross-entropy of softmax(B / t) and softmax(A / t), mean over images, times t^2.
4. Text side: the same of B^t and A^t, mean over texts.
5. Optional: mean squared distance of Z and S in feature space; image-image similarities.
6. Weight consolidation and weight ensemble (see averaging.py).

Switches: the official text side (`text_side="teacher"`) uses the teacher's text features on both
sides, so that the text tower gets no gradient from it; `text_side="student"` lets the student
encode some of the texts: D(s T Z^t, s U Z^t), U from the student. The class-incremental code shares
storage between teacher and student in LwF and iCaRL (`alias_teacher=True`), which makes the
distillation gradient 0.

Savings: T once per run (per task, if teacher or texts change); Z once too where the steps see more
images than there are; one image forward for the task's and the reference images; no copy of the
model for the teacher.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.batch import Batch, BatchRequest, ImageSet
from vlcl_toolkit.methods.registry import register
from vlcl_toolkit.methods.zscl.averaging import ParameterSpace, interpolate
from vlcl_toolkit.methods.zscl.config import ZsclConfig
from vlcl_toolkit.methods.zscl.losses import off_diagonal_logits, soft_cross_entropy
from vlcl_toolkit.methods.zscl.reference import OF_THE_STREAM, ReferenceMaterial
from vlcl_toolkit.methods.zscl.teacher import Teacher
from vlcl_toolkit.seeds import derive_seed
from vlcl_toolkit.streams.base import ImageData, Task, TaskStream, batches

REFERENCE = "reference"
"""Name of the reference images in a batch."""


@register
class Zscl(ParameterSpace):
    """Distillation on reference material, weight consolidation and weight ensemble."""

    name = "zscl"
    relative_cost = 2.0  # a teacher, and reference images beside the task's

    Config = ZsclConfig
    has_memory: ClassVar[bool] = False
    config: ZsclConfig
    stream: TaskStream

    def on_attach(self) -> None:
        """Unfreeze the towers; the teacher is the same model with other weights."""
        super().on_attach()
        config = self.config
        self.teacher = Teacher(self.clip, self.trainable(), self._teacher_weights)
        self.reference = ReferenceMaterial(
            self.clip, config.reference_texts, cut=config.cut_long_texts
        )

    def on_detach(self) -> None:
        """Let go of everything that was gathered."""
        super().on_detach()
        del self.teacher, self.reference

    # Step 2: reference material.

    @property
    def distils(self) -> bool:
        """Whether there is anything but fine-tuning, consolidation and averaging."""
        return self.config.reference_images != "none"

    def enter_stream(self, stream: TaskStream) -> None:
        """Take the reference material.

        Raises:
            UserError: the stream has none, and the settings need it.
        """
        super().enter_stream(stream)
        self.stream = stream
        config = self.config
        if config.reference_images == "memory" and not self.has_memory:
            raise UserError(f"{self.name} has no memory; choose other reference_images, or icarl")
        if not self.uses_reference:
            return
        if stream.reference is None:
            raise UserError(
                f"{self.name} distils on reference material; stream {stream.id!r} has none; give "
                "TaskStream(reference=...), or set reference_images='task' and "
                "reference_texts='task_prompts'"
            )
        self.reference.take(stream.reference())

    @property
    def uses_reference(self) -> bool:  # type: ignore[override]
        """Images or sentences, as the settings say."""
        texts = self.distils and self.config.reference_texts in OF_THE_STREAM
        return texts or self.config.reference_images == "reference"

    def enter_task(self, task_index: int, task: Task) -> None:
        """Class prompts, the negatives behind them; reference texts that come from tasks."""
        super().enter_task(task_index, task)
        own, earlier = task.prompts(0), self.stream.tasks[:task_index] if task_index else ()
        previous = [prompt for old in earlier for prompt in old.prompts(0)]
        if self.config.negatives == "previous":
            self.tokens = self.clip.tokenize([*own, *previous])
        self.reference.enter_task(own, previous)
        if self.config.teacher != "zero_shot":
            self.teacher.forget()

    def begin_task(self, task_index: int, task: Task, generator: torch.Generator) -> None:
        """Sample random texts if they are wanted."""
        super().begin_task(task_index, task, generator)
        self.reference.begin_task(self.config.random_sentences, generator)

    def distillation_images(self) -> ImageData | None:
        """Where reference images come from in this task; their labels are not used."""
        return self.task.train if self.config.reference_images == "task" else self.reference.images

    def distillation_indices(self, n: int, step: int, seed: int) -> Int64[Tensor, " b"]:
        """Which of `n` reference images a step sees: shuffled epochs."""
        size = self.config.reference_batch_size or self.config.batch_size
        return batches(n, size, step, seed)

    def batch_requests(self, task: Task, step: int, seed: int) -> dict[str, BatchRequest]:
        """Step 2: also reference images."""
        requests, data = super().batch_requests(task, step, seed), self.distillation_images()
        if self.distils and data is not None and len(data):
            indices = self.distillation_indices(len(data), step, derive_seed(REFERENCE, seed))
            requests[REFERENCE] = BatchRequest(data, indices, self.clip.eval_transform)
        return requests

    def prepare(self, batch: Batch) -> Batch:
        """Step 2: the teacher's features Z, and which reference texts the student encodes, if any."""
        if REFERENCE not in batch.others:
            return batch
        prepared = {}
        if self.config.text_side == "student":
            size, texts = self.config.sentences_per_step, len(self.reference.tokens)
            seed = derive_seed(REFERENCE, batch.seed)
            prepared["texts"] = batches(texts, size, batch.step, seed)
        if not self.config.alias_teacher:
            prepared["teacher"] = self._teacher_features(batch.others[REFERENCE])
        return replace(batch, prepared=prepared)

    def _teacher_features(self, reference: ImageSet) -> Float[Tensor, "r dim"]:
        data = self.distillation_images()
        if data is None or not self.worth_caching(data):
            return self.teacher.images(reference.images, reference.total)
        known = self.teacher.all_images(data)
        return known[reference.indices.to(known.device, non_blocking=True)]

    # Steps 1 to 6.

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy, distillation, consolidation; logs each term before its weight."""
        reference = batch.others.get(REFERENCE)
        if reference is None:
            return super().loss(batch)
        own, student = self.clip.encode_two(batch.images, reference.images, reference.total)
        cross_entropy = self.classification_loss(own, batch.labels)
        terms = self.distillation_terms(student, batch.prepared)
        weights = {name: self.config.distillation_weight for name in terms} | {
            "image_distillation": self.config.distillation_weight * self.config.image_side,
            "feature_distance": 1.0,
        }
        total = sum((weights[name] * value for name, value in terms.items()), cross_entropy)
        return self.with_consolidation({"loss": total, "cross_entropy": cross_entropy} | terms)

    def distillation_terms(
        self, student: Float[Tensor, "r dim"], prepared: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Steps 3 to 5: S is `student`; every term without its weight."""
        config, scale = self.config, self.clip.logit_scale
        if config.alias_teacher:
            with torch.no_grad():
                teacher, texts = student.detach(), self.clip.encode_text(self.reference.tokens)
        else:
            teacher, texts = prepared["teacher"], self.teacher.texts(self.reference.tokens)
        target, found = scale * teacher @ texts.T, scale * student @ texts.T
        terms = {"image_distillation": soft_cross_entropy(target, found, config.temperature)}
        if config.text_side != "off":
            if config.text_side == "student":
                chosen = prepared["texts"]
                encoded = self.clip.encode_text(self.reference.tokens[chosen])
                target, found = target[:, chosen], scale * teacher @ encoded.T
            terms["text_distillation"] = soft_cross_entropy(target.T, found.T, config.temperature)
        if config.image_image:
            target, found = (off_diagonal_logits(x, scale) for x in (teacher, student))
            terms["image_image"] = soft_cross_entropy(target, found, config.temperature)
        if config.feature_distance:
            terms["feature_distance"] = F.mse_loss(student, teacher)
        return terms

    @property
    def needs_start(self) -> bool:
        """Also a teacher can be made of the weights at the start of the task."""
        return super().needs_start or (self.distils and self.config.teacher != "zero_shot")

    def _teacher_weights(self) -> dict[str, Tensor]:
        if self.config.teacher == "zero_shot":
            return self._before
        if self.config.teacher == "previous":
            return self.start
        alpha = self.config.teacher_mixture
        return {n: interpolate(w, self._before[n], alpha) for n, w in self.start.items()}

    def worth_caching(self, data: ImageData) -> bool:
        """Whether the teacher encodes all images of `data` once: never more than the steps need."""
        if self.config.alias_teacher:
            return False
        lasting = self.config.teacher == "zero_shot" and data is self.reference.images
        size = self.config.reference_batch_size or self.config.batch_size
        return len(data) <= self.steps(self.task) * size * (len(self.stream) if lasting else 1)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights; inside a task also those at its start, and random texts."""
        random = self.reference.random_tokens
        return super().state_dict() | ({} if random is None else {"random_tokens": random})

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        random = state.get("random_tokens")
        self.reference.random_tokens = None if random is None else random.to(self.clip.device)
