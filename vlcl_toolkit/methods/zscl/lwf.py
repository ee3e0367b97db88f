"""Learning without forgetting: distil from the model before the task on the task's own images.

Papers: Li and Hoiem, "Learning without Forgetting", ECCV 2016 (LwF); Ding et al., "Don't Stop
Learning: Towards Continual Learning for the CLIP Model", 2022 (LwF-VR); both as baselines of ZSCL
(Zheng et al., ICCV 2023).

1. Learn as ZSCL does (zscl.py), without consolidation and averaging.
2. Reference images: the task's training images, in an order of their own, evaluation transform.
3. Reference texts: LwF, the task's class prompts; LwF-VR, random tokens, sampled once per task.
4. Teacher: the weights at the start of the task (in the first task: the frozen CLIP).

The official class-incremental code shares storage between teacher and student, so that the
distillation has no gradient: `alias_teacher=True` repeats that.
"""

from vlcl_toolkit.methods.registry import register
from vlcl_toolkit.methods.zscl.config import LwfConfig, LwfVrConfig
from vlcl_toolkit.methods.zscl.zscl import Zscl


@register
class Lwf(Zscl):
    """LwF."""

    name = "lwf"

    Config = LwfConfig
    config: LwfConfig


@register
class LwfVr(Lwf):
    """LwF-VR: with a replayed vocabulary."""

    name = "lwf_vr"

    Config = LwfVrConfig
    config: LwfVrConfig
