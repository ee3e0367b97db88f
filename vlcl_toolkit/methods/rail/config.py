"""Settings of RAIL."""

from typing import Literal

from pydantic.dataclasses import dataclass

from vlcl_toolkit.settings import Count, Factor, Settings, Share, Size


@dataclass(frozen=True)
class RailConfig(Settings):
    """Settings of RAIL; the defaults are those of the official repository."""

    form: Literal["primal", "dual"] = "primal"
    """Ridge regression on lifted features, or kernel ridge regression, which keeps every training feature."""
    width: Size = 15000
    """Primal: rows of the random projection."""
    lift: bool = True
    """Primal; False: regression on the features themselves (the paper's linear baseline)."""
    ridge: Factor = 0.1
    """Primal: added to the diagonal of the Gram matrix."""
    relative_ridge: Factor | None = None
    """Primal: the ridge over the mean squared norm of a lifted feature, width / (6 dim), in place of
    `ridge`, so that it means the same at every width; the official settings come to 0.0205."""
    gamma: Factor = 0.1
    """Dual: of the kernel exp(-gamma |a - b|^2)."""
    dual_ridge: Factor = 0.001
    """Dual: added to the diagonal of the kernel."""
    max_images: Count = 20000
    """Dual: more training images in a stream are refused; the kernel takes 16 bytes per pair of images."""
    fusion: Share = 0.8
    """Weight of the regression, for images that zero-shot gives to a learned class."""
    zero_shot_scale: Factor | None = None
    """Logits per cosine in the zero-shot probabilities; None: the backbone's own (100 for OpenAI's weights)."""
    eval_batch_size: Size = 128
    """Test images at once; no result depends on it but for rounding."""
