"""Settings of the methods with prompts per task: DIKI and prefix tuning."""

from dataclasses import dataclass
from typing import Literal

from vlcl_toolkit.errors import UserError


@dataclass(frozen=True)
class PromptConfig:
    """Settings of DIKI; the defaults are those of the official repository but for `decision`."""

    depth_vision: int = 8
    """Blocks of the image tower with prompts, from the first; all if the tower has fewer."""
    depth_text: int = 8
    """Blocks of the text tower with prompts, from the first; all if the tower has fewer."""
    length_vision: int = 8
    """Prompt positions per block of the image tower."""
    length_text: int = 8
    """Prompt positions per block of the text tower."""
    learning_rate: float = 5.0
    """Rate of the first step."""
    epochs: int = 10
    """Passes over a task's training images."""
    batch_size: int = 128
    """Training images per step."""
    eval_batch_size: int = 256
    """Test images per batch; with decision "batch" or "group" they decide together."""
    decision: Literal["sample", "batch", "group"] = "sample"
    """Whose prompts and weights an image gets: "sample": each image alone; "batch": the majority
    of its test batch, texts at the batch's mean weight (official); "group": its own task, texts at
    the mean weight of the batch's images of that task."""
    calibrate: bool = True
    """False: all weights are 1 (no calibration)."""
    calibration_divisor: float | None = 512.0
    """Divides the log density in the weight. The repository has 512, the dimension of ViT-B/16;
    None: the backbone's own dimension."""
    shrinkage: float | Literal["auto"] = 0.0
    """Share of a Gaussian's covariance that is replaced by the same total variance in equal parts;
    0: none (official); "auto": estimated (Ledoit-Wolf). Needed where a task has no more training
    images than the features have dimensions."""
    allow_singular: bool = False
    """True: accept a Gaussian from too few images, as the repository does."""
    select_epoch: bool = True
    """Keep the epoch with the best validation accuracy; False: the last."""
    templates: Literal["first", "all"] = "first"
    """Test prompts: the first template (official), or the mean over all. Training has the first."""

    def __post_init__(self) -> None:
        _at_least(self, 0, "depth_vision", "depth_text")
        _at_least(self, 1, "length_vision", "length_text", "epochs", "batch_size")
        _at_least(self, 1, "eval_batch_size")
        if self.depth_vision == self.depth_text == 0:
            raise UserError("prompts need a block; found depth_vision = depth_text = 0; raise one")
        if self.calibration_divisor is not None and self.calibration_divisor <= 0:
            raise UserError(
                f"calibration_divisor must be above 0; found {self.calibration_divisor}; raise it"
            )
        if self.shrinkage != "auto" and not 0 <= self.shrinkage <= 1:
            raise UserError(f"shrinkage lies in [0, 1] or is 'auto'; found {self.shrinkage}")


def _at_least(config: PromptConfig, least: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            found = getattr(config, name)
            raise UserError(f"{name} must be at least {least}; found {found}; raise it")
