"""Settings of MoE-Adapters and of its auto-selector."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vlcl_toolkit.errors import UserError

# The class-incremental variant of the official code.
CLASS_INCREMENTAL: Mapping[str, Any] = {
    "experts": 2,
    "shared_router": True,
    "freeze_top": 0,
    "selector": "none",
    "label_smoothing": 0.0,
    "epochs": 1,
    "warmup": 30,
    "learning_rate": 1e-3,
    "batch_size": 128,
}


@dataclass(frozen=True)
class SelectorConfig:
    """Settings of the auto-selector; the defaults are the paper's (full data sets)."""

    selector_features: Literal["alexnet", "clip"] = "alexnet"
    """What the autoencoders see; "clip" where AlexNet's ImageNet weights cannot be had."""
    selector_weights: str | None = None
    """File with AlexNet's weights; None: torchvision fetches them once."""
    selector_reference: bool = True
    """Learn the stream's reference images as "none of the tasks"; False: the threshold alone."""
    selector_code: int = 100
    """Width of the autoencoders' hidden layer."""
    selector_learning_rate: float = 0.01
    """Start value; a tenth every ten epochs. 0.003 for 5 images per class."""
    selector_weight_decay: float = 1e-4
    """L2 term in the gradient."""
    selector_batch_size: int = 64
    """Images per step of an autoencoder."""
    selector_iterations: int = 300
    """N for a task; the loop takes N + 1 steps."""
    selector_reference_iterations: int = 1000
    """N for the reference images."""
    selector_batches_per_epoch: int | None = None
    """Length of an epoch in the schedule; None: that of the training images. (For 5 images per
    class the official code takes the length of the full training set.)"""
    selector_augment: bool = True
    """Train on random crops; False: on the test transform, so that features are computed once."""
    threshold: float = 0.0655
    """Error above which an image belongs to no task, in (0, inf). 0.06 for 5 images per class."""
    threshold_quantile: float | None = None
    """Instead: this quantile, in (0, 1], of each autoencoder's errors on its training images."""
    feature_cache_mib: int = 2048
    """Memory for frozen features of test images; what does not fit is computed anew."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < math.inf:
            raise UserError(f"threshold lies in (0, inf); found {self.threshold}; choose another")
        quantile = self.threshold_quantile
        if quantile is not None and not 0 < quantile <= 1:
            raise UserError(f"threshold_quantile lies in (0, 1]; found {quantile}; choose another")
        for name in ("selector_code", "selector_batch_size", "selector_batches_per_epoch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1; found {value}; raise it")


@dataclass(frozen=True)
class MoEAdaptersConfig(SelectorConfig):
    """Settings of MoE-Adapters; the defaults are the paper's (MTIL, full data sets)."""

    experts: int = 22
    """E: experts per block."""
    top_k: int = 2
    """Experts that a row chooses."""
    bottleneck: int = 64
    """Width of an expert's hidden layer."""
    adapter_scale: float = 0.1
    """Factor of every expert's output."""
    dropout: float = 0.1
    """Of the hidden layer, frozen experts included."""
    towers: Literal["both", "image"] = "both"
    """Where the experts are."""
    text_route: Literal["start", "end"] = "start"
    """Token of a prompt that chooses its experts."""
    shared_router: bool = False
    """One router for all tasks."""
    freeze_top: int = 2
    """Most chosen experts of a block that are frozen after each task."""
    unused_expert_grad: Literal["skip", "zero"] = "skip"
    """What Adam sees of an expert that no row chose: nothing, or a gradient of 0."""
    computation: Literal["grouped", "official"] = "grouped"
    """"official": experts one after another, texts over all positions, attention sequence first, as
    in the official code. The same numbers up to rounding, which Adam can amplify; slower."""
    balance_weight: float = 0.0
    """Weight of the load-balance terms in the loss; 1 means the factor of the official code."""
    eval_noise: bool = False
    """Noisy routers at test time too."""
    learning_rate: float = 1e-3
    """Peak learning rate of every task not named below."""
    task_learning_rates: dict[str, float] = field(default_factory=dict)
    """Peak learning rate by task name."""
    iterations: int = 1000
    """N: the loop takes N + 1 steps per task, the last with learning rate 0."""
    epochs: int | None = None
    """N in epochs of the task's training images, instead of `iterations`."""
    warmup: int = 100
    """Steps of linear warm-up."""
    batch_size: int = 64
    """Images per step."""
    label_smoothing: float = 0.2
    """Share of the target that is spread evenly over all classes."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    eval_scale: float | None = None
    """Logits per cosine at test time; None: the model's own scale. The repository has 100."""
    selector: Literal["autoencoder", "none"] = "autoencoder"
    """Who finds the task of an image; "none" needs `shared_router`."""
    decision: Literal["sample", "batch"] = "sample"
    """Whether each test image is given a task alone or a whole batch together."""
    eval_batch_size: int = 128
    """Images of a test batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.top_k <= self.experts:
            raise UserError(
                f"top_k lies in 1..experts ({self.experts}); found {self.top_k}; change one"
            )
        if not 0 <= self.freeze_top <= self.experts:
            raise UserError(
                f"freeze_top lies in 0..experts ({self.experts}); found {self.freeze_top}"
            )
        for name in ("bottleneck", "batch_size", "eval_batch_size", "iterations", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1; found {value}; raise it")
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} lies in [0, 1); found {getattr(self, name)}")
        if self.warmup < 0:
            raise UserError(f"warmup must be at least 0; found {self.warmup}; raise it")
        if self.selector == "none" and not self.shared_router:
            raise UserError(
                "selector='none' cannot tell the routers of several tasks apart; set "
                "shared_router=True, or selector='autoencoder'"
            )
