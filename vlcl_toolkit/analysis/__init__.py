"""What happened in a run: pure functions from results to data frames."""

from vlcl_toolkit.analysis.comparison import gains
from vlcl_toolkit.analysis.decisions import (
    batch_mix,
    calibration,
    decisions,
    threshold_sweep,
)
from vlcl_toolkit.analysis.interference import (
    attention_to_prompts,
    drift_by_block,
    drift_over_steps,
    lost_predictions,
    parameter_path,
)
from vlcl_toolkit.analysis.routing import (
    expert_load,
    expert_overlap,
    expert_use,
    freezing_protects,
)
from vlcl_toolkit.analysis.zero_shot import chance, forgotten_tasks, forgotten_zero_shot

__all__ = [
    "attention_to_prompts",
    "batch_mix",
    "calibration",
    "chance",
    "decisions",
    "drift_by_block",
    "drift_over_steps",
    "expert_load",
    "expert_overlap",
    "expert_use",
    "forgotten_tasks",
    "forgotten_zero_shot",
    "freezing_protects",
    "gains",
    "lost_predictions",
    "parameter_path",
    "threshold_sweep",
]
