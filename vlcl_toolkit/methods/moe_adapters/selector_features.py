"""Input of the auto-selector: frozen features of images, in (0, 1)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.clip.weights import read_state
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.caches import FeatureCache

_SMALLEST_FOR_ALEXNET = 63  # pixels; smaller images vanish in its pooling layers


class Features(ABC):
    """Features of images: a costly part that is cached, and a cheap rest."""

    @abstractmethod
    def extract(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b raw"]:
        """The frozen network; no gradient."""

    def frozen(self, clip: Clip, limit_mib: int) -> FeatureCache:
        """Cache of what `extract` computes for sets of images."""
        return FeatureCache(clip, self.extract, limit_mib)

    def fit(self, parts: Iterator[Float[Tensor, "b raw"]]) -> None:  # noqa: B027
        """Learn the statistics of the first set of images (the reference set)."""

    def finish(self, raw: Float[Tensor, "b raw"]) -> Float[Tensor, "b dim"]:
        """Values in (0, 1)."""
        return raw

    def state_dict(self) -> dict[str, Tensor]:
        """The statistics."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027
        """Inverse of `state_dict`; other entries are left alone."""


class ConvolutionFeatures(Features):
    """The raw output of the last convolution of a network like AlexNet, through a sigmoid."""

    def __init__(self, network: nn.Sequential):
        """Args: network: convolutions that end in ReLU and pooling; these two are dropped."""
        self.network = network[:-2].eval().requires_grad_(False)

    @torch.no_grad()
    def extract(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b raw"]:
        """Flattened, `[B, 43264]` for AlexNet on 224 x 224."""
        return self.network(images).flatten(1).sigmoid()


class ClipFeatures(Features):
    """Frozen CLIP features, standardised, through a sigmoid."""

    def __init__(self, clip: Clip):
        self.clip = clip
        self.mean: Tensor | None = None
        self.deviation: Tensor | None = None

    @torch.no_grad()
    def extract(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b raw"]:
        """Unit-norm, `[B, embed_dim]`."""
        return self.clip.encode_image(images)

    def frozen(self, clip: Clip, limit_mib: int) -> FeatureCache:
        """The backbone's, which serve other runs, too."""
        return FeatureCache.of_backbone(clip, limit_mib)

    def fit(self, parts: Iterator[Float[Tensor, "b raw"]]) -> None:
        """Mean and deviation per dimension."""
        raw = torch.cat(list(parts))
        self.mean = raw.mean(dim=0)
        self.deviation = raw.std(dim=0).clamp(min=1e-6)

    def finish(self, raw: Float[Tensor, "b raw"]) -> Float[Tensor, "b dim"]:
        """sigmoid((raw - mean) / deviation)."""
        if self.mean is None or self.deviation is None:
            raise ValueError("fit comes before finish")
        return ((raw - self.mean) / self.deviation).sigmoid()

    def state_dict(self) -> dict[str, Tensor]:
        """Mean and deviation, once they are there."""
        if self.mean is None or self.deviation is None:
            return {}
        return {"mean": self.mean, "deviation": self.deviation}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        self.mean, self.deviation = (
            state[name].to(self.clip.device) if name in state else None
            for name in ("mean", "deviation")
        )


def alexnet_features(clip: Clip, weights: str | None) -> ConvolutionFeatures:
    """AlexNet's, with ImageNet weights.

    Raises:
        UserError: the images are too small for it, or the weights cannot be fetched.
    """
    advice = "set selector_features='clip'"
    if clip.image_size < _SMALLEST_FOR_ALEXNET:
        raise UserError(
            f"AlexNet needs images of at least {_SMALLEST_FOR_ALEXNET} pixels; the backbone has "
            f"{clip.image_size}; {advice}"
        )
    if weights is not None:
        network = torchvision.models.alexnet()
        try:
            network.load_state_dict(read_state(Path(weights)))
        except RuntimeError as error:
            raise UserError(f"{weights} does not hold AlexNet's weights; {advice}") from error
    else:
        choice = torchvision.models.AlexNet_Weights.IMAGENET1K_V1
        try:
            network = torchvision.models.alexnet(weights=choice)
        except OSError as error:
            raise UserError(
                f"AlexNet's weights cannot be fetched ({error}); give a file as selector_weights, "
                f"or {advice}"
            ) from error
    return ConvolutionFeatures(network.features.to(clip.device))
