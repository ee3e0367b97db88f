"""ZSCL: distil from the frozen CLIP on reference material while learning a task.

Paper: Zheng et al., "Preventing Zero-Shot Transfer Degradation in Continual Learning of
Vision-Language Models", ICCV 2023.

1. Both towers are trained (see finetune.py for schedule, cross-entropy and classification).
2. Each step draws a batch of reference images without labels. Teacher: the frozen CLIP. With unit-
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

Savings: T once per run (per task, if teacher or texts change); Z once too where there are fewer
images than draws; one image forward for the task's and the reference images; no copy of the model
for the teacher.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.registry import register
from vlcl_toolkit.methods.zscl.averaging import ParameterSpace, interpolate
from vlcl_toolkit.methods.zscl.config import ZsclConfig
from vlcl_toolkit.methods.zscl.losses import off_diagonal_logits, soft_cross_entropy
from vlcl_toolkit.methods.zscl.reference import OF_THE_STREAM, ReferenceMaterial
from vlcl_toolkit.methods.zscl.teacher import Teacher
from vlcl_toolkit.seeds import derive_seed
from vlcl_toolkit.streams.base import ImageData, Task, TaskStream, batches
from vlcl_toolkit.streams.data import Draw


@dataclass(frozen=True)
class ReferenceBatch:
    """What one step distils on.

    Attributes:
        images: transformed images, float `[r, 3, h, w]` (where ranks share a batch: the local ones).
        teacher: unit-norm features Z `[r, dim]`; None if teacher and student are one.
        total: r.
        texts: indices of the reference texts that the student encodes; None: all of them.
    """

    images: Tensor
    teacher: Tensor | None
    total: int
    texts: Tensor | None = None


@register
class Zscl(ParameterSpace):
    """Distillation on reference material, weight consolidation and weight ensemble."""

    name = "zscl"

    Config = ZsclConfig
    has_memory: ClassVar[bool] = False
    config: ZsclConfig
    reference_batch: ReferenceBatch | None = None
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
        self.reference_batch = None

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
        texts = self.distils and config.reference_texts in OF_THE_STREAM
        if config.reference_images != "reference" and not texts:
            return
        if stream.reference is None:
            raise UserError(
                f"{self.name} distils on reference material; stream {stream.id!r} has none; give "
                "TaskStream(reference=...), or set reference_images='task' and "
                "reference_texts='task_prompts'"
            )
        self.reference.take(stream.reference())

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
        """Draw random texts if they are wanted."""
        super().begin_task(task_index, task, generator)
        self.reference.begin_task(self.config.random_sentences, generator)

    def distillation_images(self) -> ImageData | None:
        """Where reference images come from in this task; their labels are not used."""
        return self.task.train if self.config.reference_images == "task" else self.reference.images

    def distillation_indices(self, n: int, step: int, seed: int) -> Int64[Tensor, " b"]:
        """Which of `n` reference images a step sees: shuffled epochs."""
        size = self.config.reference_batch_size or self.config.batch_size
        return batches(n, size, step, seed)

    def draws(self, task: Task, step: int, seed: int) -> list[Draw]:
        """Step 2: also a reference batch."""
        draws, data = super().draws(task, step, seed), self.distillation_images()
        if self.distils and data is not None and len(data):
            seed_here = derive_seed("reference", seed)
            indices = self.distillation_indices(len(data), step, seed_here)
            draws.append(Draw(data, indices, self.clip.eval_transform))
        return draws

    def receive(
        self, draws: list[Draw], images: list[Float[Tensor, "_ 3 h w"]], step: int, seed: int
    ) -> Float[Tensor, "part 3 h w"]:
        """Step 2: keep the reference batch for `loss`."""
        self.reference_batch = None
        if len(draws) > 1:
            data, indices = draws[1].data, draws[1].indices
            known, device = None, self.clip.device
            if self._worth_keeping(data):
                known = self.teacher.all_images(data)[indices.to(device, non_blocking=True)]
            size, texts = self.config.sentences_per_step, len(self.reference.tokens)
            chosen = batches(texts, size, step, derive_seed("reference", seed))
            found = images[1].to(device, non_blocking=True)
            self.reference_batch = self.make_reference_batch(found, known, chosen, len(indices))
        return images[0]

    def make_reference_batch(
        self,
        images: Float[Tensor, "part 3 h w"],
        teacher: Float[Tensor, "r dim"] | None = None,
        texts: Int64[Tensor, " n"] | None = None,
        total: int | None = None,
    ) -> ReferenceBatch:
        """Step 2: transformed images with the teacher's features Z of them.

        Args:
            teacher: Z if it is known.
            texts: which reference texts the student encodes if `text_side` is "student"; None: all.
            total: images of the whole batch; None: these are all.
        """
        total = len(images) if total is None else total
        if teacher is None and not self.config.alias_teacher:
            teacher = self.teacher.images(images, total)
        return ReferenceBatch(images, teacher, total, texts)

    # Steps 1 to 6.

    def loss(
        self, images: Float[Tensor, "part 3 h w"], labels: Int64[Tensor, " b"], step: int
    ) -> dict[str, Tensor]:
        """Cross-entropy, distillation, consolidation; logs each term before its weight."""
        batch = self.reference_batch
        if batch is None:
            return super().loss(images, labels, step)
        own, student = self.clip.encode_two(images, batch.images, batch.total)
        cross_entropy = self.classification_loss(own, labels)
        terms = self.distillation_terms(student, batch)
        weights = {name: self.config.distillation_weight for name in terms} | {
            "image_distillation": self.config.distillation_weight * self.config.image_side,
            "feature_distance": 1.0,
        }
        total = sum((weights[name] * value for name, value in terms.items()), cross_entropy)
        return self.with_consolidation({"loss": total, "cross_entropy": cross_entropy} | terms)

    def distillation_terms(
        self, student: Float[Tensor, "r dim"], batch: ReferenceBatch
    ) -> dict[str, Tensor]:
        """Steps 3 to 5: S is `student`; every term without its weight."""
        config, scale = self.config, self.clip.logit_scale
        if config.alias_teacher:
            with torch.no_grad():
                teacher, texts = student.detach(), self.clip.encode_text(self.reference.tokens)
        else:
            assert batch.teacher is not None
            teacher, texts = batch.teacher, self.teacher.texts(self.reference.tokens)
        target, found = scale * teacher @ texts.T, scale * student @ texts.T
        terms = {"image_distillation": soft_cross_entropy(target, found, config.temperature)}
        if config.text_side != "off":
            if config.text_side == "student":
                chosen = slice(None) if batch.texts is None else batch.texts
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
        share = self.config.teacher_mixture
        return {n: interpolate(w, self._before[n], share) for n, w in self.start.items()}

    def _worth_keeping(self, data: ImageData) -> bool:
        # Never more teacher forwards than without keeping them.
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
