"""Settings of ZSCL, of fine-tuning, on which it builds, and of the methods in between, side by side.

"Step 3" is a step in the head of the method's own file.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.settings import (
    Count,
    CountOrZero,
    Factor,
    Rate,
    Settings,
    Share,
    ShareBelowOne,
    Size,
)

Averaging = Literal["none", "ensemble", "ensemble_wise", "wise_ft", "moving"]
ReferenceImages = Literal["none", "reference", "task", "memory"]
ReferenceTexts = Literal["sentences", "class_names", "task_prompts", "seen_prompts", "random"]
TeacherWeights = Literal["zero_shot", "previous", "mixture"]


@dataclass(frozen=True)
class FinetuneConfig(Settings):
    """Settings of continual fine-tuning; the defaults are those of the ZSCL repository."""

    learning_rate: Rate = 1e-5
    """Peak learning rate of every task not named below."""
    task_learning_rates: dict[str, Rate] = field(default_factory=dict)
    """Peak learning rate by task name."""
    iterations: Count = 1000
    """N: the loop takes N + 1 steps per task, the last with learning rate 0."""
    warmup: CountOrZero = 100
    """Steps of linear warm-up, fewer than `iterations`."""
    epochs: Count | None = None
    """N as passes over the task's images, instead of `iterations`."""
    batch_size: Size = 64
    """Images per step."""
    label_smoothing: ShareBelowOne = 0.2
    """Share of the target that is spread evenly over all classes."""
    weight_decay: Rate = 0.0
    """Decoupled weight decay of AdamW."""
    eval_scale: Factor | None = None
    """Logits per cosine at test time; None: the model's own scale. The repository has 100."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> "FinetuneConfig":
        if self.epochs is None and self.warmup >= self.iterations:
            raise UserError(
                f"warmup must be below iterations ({self.iterations}); "
                f"found {self.warmup}; lower warmup or raise iterations"
            )
        return self


@dataclass(frozen=True)
class AveragingConfig(FinetuneConfig):
    """Neither consolidation nor averaging, unless a method overrides it."""

    weight_consolidation: Rate = 0.0
    """c: weight of the squared distance from the weights at the start of the task."""
    averaging: Averaging = "none"
    """How weights are averaged; see the head of averaging.py."""
    average_every: Count = 100
    """f: steps between two averages."""
    average_alpha: Share | None = None
    """a; None: the official value (ensemble_wise 0.98, wise_ft 0.8, moving 0.999)."""
    average_towards: Literal["task_start", "zero_shot", "last"] = "task_start"
    """The other weights of wise_ft and moving; only moving knows "last"."""

    @model_validator(mode="after")
    def _only_moving_knows_the_last_weights(self) -> "AveragingConfig":
        if self.average_towards == "last" and self.averaging != "moving":
            raise UserError(
                f"average_towards='last' needs averaging='moving'; found {self.averaging!r}; "
                "change one of them"
            )
        return self


@dataclass(frozen=True)
class WiseFtConfig(AveragingConfig):
    """Settings of WiSE-FT: fine-tuning and step 2."""

    averaging: Averaging = "wise_ft"
    """How weights are averaged."""


@dataclass(frozen=True)
class WeightEnsembleConfig(AveragingConfig):
    """Settings of the weight ensemble: fine-tuning and step 3."""

    averaging: Averaging = "ensemble"
    """How weights are averaged."""


@dataclass(frozen=True)
class WeightConsolidationConfig(AveragingConfig):
    """Settings of weight consolidation: fine-tuning and step 4."""

    weight_consolidation: Rate = 1.0
    """Weight of the squared distance from the weights at the start of the task."""


@dataclass(frozen=True)
class ZsclConfig(AveragingConfig):
    """Settings of ZSCL; the defaults are those of its repository."""

    reference_images: ReferenceImages = "reference"
    """The stream's reference images, the task's training images, or no distillation; the
    memory is iCaRL's."""
    reference_texts: ReferenceTexts = "sentences"
    """Reference sentences, "a photo of a {}." of reference class names (ZSCL-), the task's
    prompts (LwF), prompts of all tasks so far, or random tokens (LwF-VR)."""
    teacher: TeacherWeights = "zero_shot"
    """The frozen CLIP, the weights before the task, or a mixture of both."""
    teacher_mixture: Share = 0.8
    """Share of the weights before the task in a mixture."""
    alias_teacher: bool = False
    """Teacher = student at every step, as in the official class-incremental LwF and iCaRL."""
    image_side: bool = True
    """Step 3."""
    text_side: Literal["off", "teacher", "student"] = "teacher"
    """Step 4: whose text features the student's side has ("teacher": as in the official code)."""
    feature_distance: bool = False
    """Step 5: add the mean squared distance of image features."""
    image_image: bool = False
    """Step 5: distil the similarities of the reference images with each other."""
    distillation_weight: Rate = 1.0
    """Weight of steps 3, 4 and of image_image."""
    temperature: Factor = 2.0
    """t of the softened distributions."""
    reference_batch_size: Size | None = None
    """Reference images per step; None: `batch_size`."""
    sentences_per_step: Size = 64
    """Texts that the student encodes per step if text_side is "student"."""
    random_sentences: Size = 1000
    """Number of texts if they are random."""
    cut_long_texts: bool = False
    """Cut a text that is too long without its end token, as the official code does."""
    negatives: Literal["none", "previous"] = "none"
    """Classes beside the task's own in the cross-entropy: those of all previous tasks."""
    weight_consolidation: Rate = 1.0
    """Weight of the squared distance from the weights at the start of the task."""
    averaging: Averaging = "ensemble"
    """How weights are averaged; see averaging.py."""


@dataclass(frozen=True)
class LwfConfig(ZsclConfig):
    """Settings of LwF; the others are those of ZSCL."""

    reference_images: ReferenceImages = "task"
    """Step 2."""
    reference_texts: ReferenceTexts = "task_prompts"
    """Step 3."""
    teacher: TeacherWeights = "previous"
    """Step 4."""
    weight_consolidation: Rate = 0.0
    """Off."""
    averaging: Averaging = "none"
    """Off."""


@dataclass(frozen=True)
class LwfVrConfig(LwfConfig):
    """Settings of LwF-VR; the others are those of LwF."""

    reference_texts: ReferenceTexts = "random"
    """Step 3."""


@dataclass(frozen=True)
class IcarlConfig(ZsclConfig):
    """Settings of iCaRL; the others are those of ZSCL."""

    memory_size: Count = 10_000
    """K: images kept over all tasks."""
    candidates: Count = 30_000
    """Images of a task, from the first on, among which exemplars are picked."""
    faithful_memory: bool = False
    """Pick exemplars as the official code does, mistakes included."""
    memory_update: Literal["after_task", "before_task"] = "after_task"
    """When step 2 is done; the official class-incremental code does it before the task."""
    reference_images: ReferenceImages = "memory"
    """The images in memory, or no distillation."""
    reference_texts: ReferenceTexts = "task_prompts"
    """Texts of the distillation."""
    weight_consolidation: Rate = 0.0
    """Off."""
    averaging: Averaging = "none"
    """Off."""


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "zscl": {},
    "zscl_star": {"weight_consolidation": 0.0},
    "zscl_minus": {
        "reference_texts": "class_names",
        "weight_consolidation": 0.0,
        "averaging": "none",
    },
    "zscl_class_incremental": {
        "learning_rate": 7.1e-6,
        "epochs": 1,
        "warmup": 30,
        "distillation_weight": 5.0,
        "weight_consolidation": 0.0,
        "average_every": 10,
    },
}
"""Settings of the paper's variants of ZSCL, for `config=VARIANTS[name]`."""
