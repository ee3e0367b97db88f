"""Zero-shot CLIP, the reference that continual learning must not fall below.

Paper: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, section 3.1.

1. Encode every class name in every template; normalise, average, normalise: one vector per class.
2. An image's logits are its scaled cosine similarities with the class vectors.

Nothing is trained, so the class vectors of a task are computed once.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlcl_toolkit.methods.base import Method
from vlcl_toolkit.methods.caches import FeatureCache
from vlcl_toolkit.methods.registry import register
from vlcl_toolkit.streams.base import ImageData, Task


@register
class ZeroShot(Method):
    """The frozen CLIP with the prompt ensemble of each task."""

    name = "zero_shot"
    relative_cost = 0.0

    @dataclass(frozen=True)
    class Config:
        """Nothing to set."""

    @torch.no_grad()
    def predict(self, images: Float[Tensor, "b 3 h w"], task: Task) -> Float[Tensor, "b classes"]:
        """Steps 1 and 2."""
        return self.clip.logits(self.clip.encode_image(images), self.class_features(task))

    @torch.no_grad()
    def classify(self, data: ImageData, task: Task) -> Int64[Tensor, " n"]:
        """As `predict`, on features that other runs of this process may have computed."""
        frozen = FeatureCache.of_backbone(self.clip, batch_size=self.eval_batch_size)
        return frozen.predicted_labels(
            data, lambda part: self.clip.logits(part, self.class_features(task)), again=False
        )
