"""Image transforms of CLIP: geometry, RGB, [0, 1], normalisation."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TF


class ImageTransform:
    """Turns an image into the model's input.

    Training: random resized crop, area 0.9 to 1, aspect 3/4 to 4/3, no flip. Evaluation: resize the
    shorter side, centre crop. Bicubic with antialiasing in both. Pictures become RGB after the
    geometry, as in the official repositories (it matters for palette images).

    Takes a PIL image or uint8 `[3, H, W]`, giving float32 `[3, size, size]`, or a uint8 batch
    `[B, 3, H, W]`, each image with a crop of its own, giving `[B, 3, size, size]`. Random numbers
    come from torch's global generator.

    Source: CLIP (Radford et al. 2021), section 2.5; ZSCL's official training transform.
    """

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float], *, augment: bool):
        bicubic = InterpolationMode.BICUBIC
        self.size = size
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)
        self._crop = v2.RandomResizedCrop(size, scale=(0.9, 1.0), interpolation=bicubic)
        self._centre = v2.Compose(
            [v2.Resize(size, interpolation=bicubic), v2.CenterCrop(size)]  # antialias by default
        )
        self.augment = augment

    def __call__(self, image: Image.Image | Tensor) -> Float[Tensor, "*batch 3 size size"]:
        if isinstance(image, Image.Image):
            pixels = TF.pil_to_tensor(self._geometry(image).convert("RGB"))
        elif self.augment and image.ndim == 4:
            pixels = torch.cat([self._crop_one(one) for one in image.split(1)])
        else:
            pixels = self._geometry(image)
        return (pixels.float() / 255 - self.mean) / self.std

    def _geometry(self, image: Any) -> Any:
        return self._crop(image) if self.augment else self._centre(image)

    def _crop_one(self, image: Tensor) -> Tensor:
        # Bit for bit torchvision's result, at half its overhead on small images.
        box = self._crop.make_params([image])
        top, left = box["top"], box["left"]
        part = image[..., top : top + box["height"], left : left + box["width"]]
        size = (self.size, self.size)
        return F.interpolate(part, size=size, mode="bicubic", antialias=True)
