"""Settings of MoE-Adapters and of its auto-selector."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.settings import (
    Count,
    CountOrZero,
    Factor,
    Few,
    FewOrZero,
    Rate,
    Settings,
    ShareBelowOne,
    Size,
)


@dataclass(frozen=True)
class SelectorConfig(Settings):
    """Settings of the auto-selector; the defaults are the paper's (full data sets)."""

    selector_features: Literal["alexnet", "clip"] = "alexnet"
    """What the autoencoders see; "clip" where AlexNet's ImageNet weights cannot be fetched."""
    selector_weights: str | None = None
    """File with AlexNet's weights; None: torchvision fetches them once."""
    selector_reference: bool = True
    """Learn the stream's reference images as "none of the tasks"; False: the threshold alone."""
    selector_code: Size = 100
    """Width of the autoencoders' hidden layer."""
    selector_learning_rate: Rate = 0.01
    """Start value; a tenth every ten epochs. 0.003 for 5 images per class."""
    selector_weight_decay: Rate = 1e-4
    """L2 term in the gradient."""
    selector_batch_size: Size = 64
    """Images per step of an autoencoder."""
    selector_iterations: Count = 300
    """N for a task; the loop takes N + 1 steps."""
    selector_reference_iterations: Count = 1000
    """N for the reference images."""
    selector_batches_per_epoch: Count | None = None
    """Length of an epoch in the schedule; None: that of the training images. (For 5 images per
    class the official code takes the length of the full training set.)"""
    selector_augment: bool = True
    """Train on random crops; False: on the test transform, so that features are computed once."""
    threshold: Annotated[float, Field(gt=0)] = 0.0655
    """Error above which an image belongs to no task. 0.06 for 5 images per class."""
    threshold_quantile: Annotated[float, Field(gt=0, le=1)] | None = None
    """Instead: this quantile of each autoencoder's errors on its training images."""
    feature_cache_mib: CountOrZero = 2048
    """Memory for frozen features of test images; what does not fit is computed again."""


@dataclass(frozen=True)
class MoEAdaptersConfig(SelectorConfig):
    """Settings of MoE-Adapters; the defaults are the paper's (MTIL, full data sets)."""

    experts: Few = 22
    """E: experts per block."""
    top_k: Few = 2
    """Experts that a row chooses."""
    bottleneck: Size = 64
    """Width of an expert's hidden layer."""
    adapter_scale: Factor = 0.1
    """Factor of every expert's output."""
    dropout: ShareBelowOne = 0.1
    """Of the hidden layer, frozen experts included."""
    towers: Literal["both", "image"] = "both"
    """Where the experts are."""
    text_route: Literal["start", "end"] = "start"
    """Token of a prompt that chooses its experts."""
    shared_router: bool = False
    """One router for all tasks."""
    freeze_top: FewOrZero = 2
    """Most chosen experts of a block that are frozen after each task."""
    unused_expert_grad: Literal["skip", "zero"] = "skip"
    """What Adam sees of an expert that no row chose: nothing, or a gradient of 0."""
    balance_weight: Rate = 0.0
    """Weight of the load-balance terms in the loss; 1 means the factor of the official code."""
    eval_noise: bool = False
    """Noisy routers at test time too."""
    learning_rate: Rate = 1e-3
    """Peak learning rate of every task not named below."""
    task_learning_rates: dict[str, Rate] = field(default_factory=dict)
    """Peak learning rate by task name."""
    iterations: Count = 1000
    """N: the loop takes N + 1 steps per task, the last with learning rate 0."""
    epochs: Count | None = None
    """N in epochs of the task's training images, instead of `iterations`."""
    warmup: CountOrZero = 100
    """Steps of linear warm-up."""
    batch_size: Size = 64
    """Images per step."""
    label_smoothing: ShareBelowOne = 0.2
    """Share of the target that is spread evenly over all classes."""
    weight_decay: Rate = 0.0
    """Decoupled weight decay of AdamW."""
    eval_scale: Factor | None = None
    """Logits per cosine at test time; None: the model's own scale. The repository has 100."""
    selector: Literal["autoencoder", "gaussian", "none"] = "autoencoder"
    """What finds the task of an image; "gaussian" is not the paper's; "none" needs `shared_router`."""
    decision: Literal["sample", "batch"] = "sample"
    """Whether a task is selected for each test image or for a whole batch."""
    eval_batch_size: Size = 128
    """Images of a test batch."""

    @model_validator(mode="after")
    def _settings_fit(self) -> "MoEAdaptersConfig":
        for name in ("top_k", "freeze_top"):
            if getattr(self, name) > self.experts:
                raise UserError(
                    f"{name} must be at most experts ({self.experts}); "
                    f"found {getattr(self, name)}; lower {name} or raise experts"
                )
        if self.selector == "none" and not self.shared_router:
            raise UserError(
                "selector='none' cannot tell the routers of several tasks apart; found "
                "shared_router=False; set shared_router=True, or selector='autoencoder'"
            )
        if self.selector == "gaussian" and (
            self.selector_features != "clip" or self.threshold_quantile is None
        ):
            raise UserError(
                "selector='gaussian' looks at CLIP's features and has no constant threshold; found "
                f"selector_features={self.selector_features!r}, threshold_quantile="
                f"{self.threshold_quantile}; set selector_features='clip' and e.g. "
                "threshold_quantile=0.99"
            )
        return self
