"""Settings of the low-rank methods, side by side; "Step 3" is a step in the head of the method's own file."""

from dataclasses import field
from typing import Literal

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

Towers = Literal["both", "image", "text"]
Templates = Literal["first", "all"]


@dataclass(frozen=True)
class LowRankConfig(Settings):
    """What all three have."""

    rank: Size = 128
    """Of the product at each attention weight, at most the width of its tower."""
    alpha: Factor = 2.0
    """The product counts alpha / rank or alpha / sqrt(rank) times."""
    towers: Towers = "both"
    """Which towers are trained."""
    batch_size: Size = 16
    """Images per step."""
    learning_rate: Rate = 3e-4
    """Peak learning rate."""
    weight_decay: Rate = 0.01
    """Decoupled weight decay of AdamW."""
    test_templates: Templates = "all"
    """Prompts at test time: the first template of a task, or the ensemble over all."""


@dataclass(frozen=True)
class LoraConfig(LowRankConfig):
    """Settings of sequential LoRA; the defaults are those of the NuSA-CL repository's baseline."""

    rank_stabilised: bool = True
    """alpha / sqrt(rank) instead of alpha / rank."""
    dropout: ShareBelowOne = 0.25
    """Share of a branch's inputs that is set to 0 in training."""
    iterations: Count = 1000
    """N: steps per task."""
    warmup: CountOrZero = 50
    """Steps of linear warm-up, fewer than `iterations`."""
    label_smoothing: ShareBelowOne = 0.2
    """Share of the target that is spread evenly over all classes."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> "LoraConfig":
        if self.warmup >= self.iterations:
            raise UserError(
                f"warmup must be below iterations ({self.iterations}); "
                f"found {self.warmup}; lower warmup or raise iterations"
            )
        return self


@dataclass(frozen=True)
class NusaClConfig(LoraConfig):
    """Settings of NuSA-CL; what is not here is as for LoRA."""

    cutoff: Share = 0.95
    """Share of a weight's squared singular values above which directions are free (step 1)."""


@dataclass(frozen=True)
class KeepLoraConfig(LowRankConfig):
    """Settings of KeepLoRA; the defaults are those of its repository."""

    rank: Size = 16
    """Of the product at each attention weight, at most the width of its tower."""
    rank_text: Size | None = None
    """The same in the text tower; None: `rank`."""
    alpha: Factor = 1.0
    """The product counts alpha / rank times."""
    batch_size: Size = 64
    """Images per step, and of the passes in steps 2 and 6."""
    learning_rate: Rate = 1e-3
    """Peak of the one-cycle schedule."""
    test_templates: Templates = "first"
    """Prompts at test time: the first template of a task, or the ensemble over all."""
    epochs: Count = 10
    """Passes over a task's images."""
    task_epochs: dict[str, Count] = field(default_factory=dict)
    """The same by task name."""
    weight_share: Share = 0.85
    """Step 1: share of the pre-trained weights' squared singular values that is protected, image tower;
    0: none."""
    weight_share_text: Share = 0.2
    """The same in the text tower."""
    feature_share: Share = 0.99
    """Step 6: share of a task's squared features that is protected, image tower; 0: none."""
    feature_share_text: Share = 0.99
    """The same in the text tower."""
    weight_side: Literal["stored_left", "input"] = "stored_left"
    """Step 1: singular vectors of the output side, as in the official code, or of the input side, as in the
    paper."""
    features: Literal["batch_mean", "second_moment"] = "batch_mean"
    """Step 6: the mean of the batches' feature matrices, as in the official code, or all features."""
    text_positions: Literal["all", "to_end"] = "all"
    """Step 6: every position of the context, as in the official code, or those up to the end of the text."""
    gradient_start: bool = True
    """Step 3; False: A is random within the free space and B starts at 0."""
    faithful_rank: bool = False
    """Step 3: keep directions in which the gradient is rounding alone, as the official code does."""
    keep_incomplete: bool = False
    """Steps 2 and 6: use the last batch even if it is not full."""
    classifier: bool = False
    """KeepLoRA+: step 7."""
    classifier_scale: Factor = 30.0
    """Logits per cosine of that classifier."""
