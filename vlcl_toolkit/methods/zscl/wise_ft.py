"""Fine-tuning with one remedy in parameter space each: WiSE-FT, weight ensemble, consolidation.

Papers: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022 (WiSE-FT); Zheng et
al., ICCV 2023 (ZSCL), whose repository ships all three as baselines and parts of ZSCL.

1. Fine-tune (see finetune.py).
2. WiSE-FT: after each task, 0.8 of the new weights and 0.2 of those before the task.
3. Weight ensemble (WE): after each task, the mean of the weights before it and of a snapshot after
   every 100th step.
4. Weight consolidation (WC): the loss gains the squared distance from the weights before the task.

The code of all three is in averaging.py. ZSCL's "WE + WiSE" is
`averaging="ensemble_wise"` (with `average_alpha=0.99` in its script).
"""

from vlcl_toolkit.methods.registry import register
from vlcl_toolkit.methods.zscl.averaging import ParameterSpace
from vlcl_toolkit.methods.zscl.config import (
    WeightConsolidationConfig,
    WeightEnsembleConfig,
    WiseFtConfig,
)


@register
class WiseFt(ParameterSpace):
    """Interpolate between the weights before and after each task."""

    name = "wise_ft"

    Config = WiseFtConfig
    config: WiseFtConfig


@register
class WeightEnsemble(ParameterSpace):
    """Average the weights along the training of each task."""

    name = "weight_ensemble"

    Config = WeightEnsembleConfig
    config: WeightEnsembleConfig


@register
class WeightConsolidation(ParameterSpace):
    """Pull the weights back to where the task found them."""

    name = "weight_consolidation"

    Config = WeightConsolidationConfig
    config: WeightConsolidationConfig
