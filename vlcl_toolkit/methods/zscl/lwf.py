"""Learning without forgetting: distil from the model before the task on the task's own images.

Papers: Li and Hoiem, "Learning without Forgetting", ECCV 2016 (LwF); Ding et al., "Don't Stop
Learning: Towards Continual Learning for the CLIP Model", 2022 (LwF-VR); both as baselines of ZSCL
(Zheng et al., ICCV 2023).

1. Learn as ZSCL does (zscl.py), without consolidation and averaging.
2. Reference images: the task's training images, in an order of their own, evaluation transform.
3. Reference texts: LwF, the task's class prompts; LwF-VR, random tokens, drawn once per task.
4. Teacher: the weights at the start of the task (in the first task: the frozen backbone).

The official class-incremental code shares storage between teacher and student, so that the
distillation has no gradient: `alias_teacher=True` repeats that.
"""

from dataclasses import dataclass

from vlcl_toolkit.methods.registry import register
from vlcl_toolkit.methods.zscl.averaging import Averaging
from vlcl_toolkit.methods.zscl.config import TeacherWeights, ZsclConfig
from vlcl_toolkit.methods.zscl.reference import ReferenceImages, ReferenceTexts
from vlcl_toolkit.methods.zscl.zscl import Zscl


@register
class Lwf(Zscl):
    """LwF."""

    name = "lwf"

    @dataclass(frozen=True)
    class Config(ZsclConfig):
        """Settings of LwF; the others are those of ZSCL."""

        reference_images: ReferenceImages = "task"
        """Step 2."""
        reference_texts: ReferenceTexts = "task_prompts"
        """Step 3."""
        teacher: TeacherWeights = "previous"
        """Step 4."""
        weight_consolidation: float = 0.0
        """Off."""
        averaging: Averaging = "none"
        """Off."""

    config: Config


@register
class LwfVr(Lwf):
    """LwF-VR: with a replayed vocabulary."""

    name = "lwf_vr"

    @dataclass(frozen=True)
    class Config(Lwf.Config):
        """Settings of LwF-VR; the others are those of LwF."""

        reference_texts: ReferenceTexts = "random"
        """Step 3."""

    config: Config
