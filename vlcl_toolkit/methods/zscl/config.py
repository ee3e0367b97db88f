"""Settings of ZSCL and of the methods built on it; the steps are those of zscl.py."""

from dataclasses import dataclass
from typing import Any, Literal

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.zscl.averaging import Averaging, ParameterSpace
from vlcl_toolkit.methods.zscl.reference import ReferenceImages, ReferenceTexts

TeacherWeights = Literal["zero_shot", "previous", "mixture"]

VARIANTS: dict[str, dict[str, Any]] = {
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
"""Settings of the paper's variants, for `config=VARIANTS[name]`."""


@dataclass(frozen=True)
class ZsclConfig(ParameterSpace.Config):
    """Settings of ZSCL; the defaults are those of its repository."""

    reference_images: ReferenceImages = "reference"
    """The stream's reference images, the task's training images, or no distillation; the
    memory is iCaRL's."""
    reference_texts: ReferenceTexts = "sentences"
    """Reference sentences, "a photo of a {}." of reference class names (ZSCL-), the task's
    prompts (LwF), prompts of all tasks so far, or random tokens (LwF-VR)."""
    teacher: TeacherWeights = "zero_shot"
    """The frozen CLIP, the weights before the task, or a mixture of both."""
    teacher_mixture: float = 0.8
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
    distillation_weight: float = 1.0
    """Weight of steps 3, 4 and of image_image."""
    temperature: float = 2.0
    """t of the softened distributions."""
    reference_batch_size: int | None = None
    """Reference images per step; None: `batch_size`."""
    sentences_per_step: int = 64
    """Texts that the student encodes per step if text_side is "student"."""
    random_sentences: int = 1000
    """Number of texts if they are random."""
    cut_long_texts: bool = False
    """Cut a text that is too long without its end token, as the official code does."""
    negatives: Literal["none", "previous"] = "none"
    """Classes beside the task's own in the cross-entropy: those of all previous tasks."""
    weight_consolidation: float = 1.0
    """Weight of the squared distance from the weights at the start of the task."""
    averaging: Averaging = "ensemble"
    """How weights are averaged; see parameter_space.py."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise UserError(f"temperature must be above 0; found {self.temperature}")
        if not 0 <= self.teacher_mixture <= 1:
            raise UserError(f"teacher_mixture lies in [0, 1]; found {self.teacher_mixture}")
        for size in ("sentences_per_step", "random_sentences", "reference_batch_size"):
            value = getattr(self, size)
            if value is not None and value < 1:
                raise UserError(f"{size} must be at least 1; found {value}; raise it")
