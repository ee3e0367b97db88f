"""Settings of the methods with prompts per task: DIKI and prefix tuning."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.settings import Count, Factor, Few, FewOrZero, Rate, Settings, Share, Size


@dataclass(frozen=True)
class PromptConfig(Settings):
    """Settings of DIKI; the defaults are those of the official repository but for `decision`."""

    depth_vision: FewOrZero = 8
    """Blocks of the image tower with prompts, from the first; all if the tower has fewer."""
    depth_text: FewOrZero = 8
    """Blocks of the text tower with prompts, from the first; all if the tower has fewer."""
    length_vision: Few = 8
    """Prompt positions per block of the image tower."""
    length_text: Few = 8
    """Prompt positions per block of the text tower."""
    learning_rate: Rate = 5.0
    """Rate of the first step."""
    epochs: Count = 10
    """Passes over a task's training images."""
    batch_size: Size = 128
    """Training images per step."""
    eval_batch_size: Size = 256
    """Test images per batch; with decision "batch" or "group" they share a decision."""
    decision: Literal["sample", "batch", "group"] = "sample"
    """Whose prompts and weights an image gets: "sample": each image alone; "batch": the majority
    of its test batch, texts at the batch's mean weight (official); "group": its own task, texts at
    the mean weight of the batch's images of that task."""
    calibrate: bool = True
    """False: all weights are 1 (no calibration)."""
    calibration: Literal["official", "quantile"] = "official"
    """Where the weight is 0.5: "official": at the log density `calibration_divisor`, for every task;
    "quantile": at a low quantile of the log densities of the task's own validation images."""
    calibration_quantile: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    """See `calibration`; in [0, 0.5)."""
    calibration_divisor: Factor | None = 512.0
    """Divides the log density in the weight. The repository has 512, the dimension of ViT-B/16;
    None: the backbone's own dimension."""
    shrinkage: Share | Literal["auto"] = 0.0
    """Share of a Gaussian's covariance that is replaced by the same total variance in equal parts;
    0: none (official); "auto": estimated (Ledoit-Wolf). Needed where a task has no more training
    images than the features have dimensions."""
    allow_singular: bool = False
    """True: accept a Gaussian from too few images, as the repository does."""
    select_epoch: bool = True
    """Keep the epoch with the best validation accuracy; False: the last."""
    templates: Literal["first", "all"] = "first"
    """Test prompts: the first template (official), or the mean over all. Training has the first."""

    @model_validator(mode="after")
    def _some_block_has_prompts(self) -> "PromptConfig":
        if self.depth_vision == self.depth_text == 0:
            raise UserError("prompts need a block; found depth_vision = depth_text = 0; raise one")
        return self


@dataclass(frozen=True)
class PrefixConfig(PromptConfig):
    """Settings of prefix tuning: those of DIKI."""
