"""What happened in a run: pure functions from results to data frames."""

from vlcl_toolkit.analysis.comparison import gains
from vlcl_toolkit.analysis.decisions import (
    batch_mix,
    calibration,
    mixed_batches,
    oracle_scores,
    route_decisions,
    threshold_sweep,
)
from vlcl_toolkit.analysis.feature_maps import feature_film, feature_map, map_movement, map_quality
from vlcl_toolkit.analysis.feature_shift import (
    class_separation,
    moved_back,
    neighbours_kept,
    shift_length,
)
from vlcl_toolkit.analysis.interference import (
    attention_to_prompts,
    drift_by_block,
    lost_predictions,
)
from vlcl_toolkit.analysis.interpolation import prompt_strength, weight_path
from vlcl_toolkit.analysis.orders import (
    order_scores,
    order_spread,
    pair_changes,
    pair_effects,
    pair_matrix,
)
from vlcl_toolkit.analysis.predictions import (
    confusion,
    confusion_drift,
    flips,
)
from vlcl_toolkit.analysis.routing import expert_overlap, expert_use, freezing_protects
from vlcl_toolkit.analysis.task_identity import (
    closed_form_accuracy,
    task_separation,
    with_and_without_identity,
)
from vlcl_toolkit.analysis.zero_shot import (
    chance,
    forgotten_tasks,
    forgotten_zero_shot,
    unseen_accuracy,
)

__all__ = [
    "attention_to_prompts",
    "batch_mix",
    "calibration",
    "chance",
    "class_separation",
    "closed_form_accuracy",
    "confusion",
    "confusion_drift",
    "drift_by_block",
    "expert_overlap",
    "expert_use",
    "feature_film",
    "feature_map",
    "flips",
    "forgotten_tasks",
    "forgotten_zero_shot",
    "freezing_protects",
    "gains",
    "lost_predictions",
    "map_movement",
    "map_quality",
    "mixed_batches",
    "moved_back",
    "neighbours_kept",
    "oracle_scores",
    "order_scores",
    "order_spread",
    "pair_changes",
    "pair_effects",
    "pair_matrix",
    "prompt_strength",
    "route_decisions",
    "shift_length",
    "task_separation",
    "threshold_sweep",
    "unseen_accuracy",
    "weight_path",
    "with_and_without_identity",
]
