"""Figures. Each function plots a frame into an Axes and returns the Axes."""

from vlcl_toolkit.plotting.accuracy import (
    accuracy_bars,
    accuracy_change,
    accuracy_matrix,
    score_cells,
    unseen_accuracy,
)
from vlcl_toolkit.plotting.comparison import (
    learning_rate_curves,
    method_comparison,
    trade_off,
    weight_path_curves,
)
from vlcl_toolkit.plotting.feature_shift import curves_by_stage, feature_map
from vlcl_toolkit.plotting.images import (
    class_probabilities,
    domain_examples,
    order_strip,
    show_image,
)
from vlcl_toolkit.plotting.interference import (
    attention_lines,
    drift_heat,
    drift_lines,
    lost_prediction_bars,
)
from vlcl_toolkit.plotting.orders import order_ranking, pair_effects
from vlcl_toolkit.plotting.routing import (
    batch_mix_curves,
    calibration_strips,
    decision_matrix,
    expert_block_heat,
    expert_overlap_heat,
    expert_use_heat,
    freezing_bars,
    mixed_batch_bars,
    strength_curves,
    threshold_curves,
)
from vlcl_toolkit.plotting.style import (
    difference_cells,
    domain_colour,
    domain_marker,
    method_colour,
    method_marker,
    new_figure,
    to_png,
    use_style,
)
from vlcl_toolkit.plotting.zero_shot import (
    confusion_change,
    pretraining_loss,
    pretraining_zero_shot,
)

__all__ = [
    "accuracy_bars",
    "accuracy_change",
    "accuracy_matrix",
    "attention_lines",
    "batch_mix_curves",
    "calibration_strips",
    "class_probabilities",
    "confusion_change",
    "curves_by_stage",
    "decision_matrix",
    "difference_cells",
    "domain_colour",
    "domain_examples",
    "domain_marker",
    "drift_heat",
    "drift_lines",
    "expert_block_heat",
    "expert_overlap_heat",
    "expert_use_heat",
    "feature_map",
    "freezing_bars",
    "learning_rate_curves",
    "lost_prediction_bars",
    "method_colour",
    "method_comparison",
    "method_marker",
    "mixed_batch_bars",
    "new_figure",
    "order_ranking",
    "order_strip",
    "pair_effects",
    "pretraining_loss",
    "pretraining_zero_shot",
    "score_cells",
    "show_image",
    "strength_curves",
    "threshold_curves",
    "to_png",
    "trade_off",
    "unseen_accuracy",
    "use_style",
    "weight_path_curves",
]
