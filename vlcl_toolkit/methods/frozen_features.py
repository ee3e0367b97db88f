"""What a frozen network says about images that are asked for again and again, computed once.

Features of the backbone serve all runs of a process: runs leave the backbone as it was, and the images of a
stream do not change.
"""

from collections.abc import Callable, Iterator
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from vlcl_toolkit.clip import Clip
from vlcl_toolkit.streams.base import ImageData, load_batch

LIMIT_MIB = 2048
_SMALL = 0.01  # of the limit

# Features go with the images they belong to.
Kept = WeakKeyDictionary[ImageData, Tensor]
# Backbone -> images at once -> features; a feature's last digits depend on the size of its portion.
_of_backbones: WeakKeyDictionary[Clip, dict[int, Kept]] = WeakKeyDictionary()


class FrozenFeatures:
    """What a frozen network says about the images of a set: computed once, while memory lasts.

    Always in the same portions, so that a number does not depend on what was kept.

    Args:
        clip: whose test transform and device serve.
        extract: float images `[b, 3, h, w]` on the device -> features `[b, raw]`.
        limit_mib: memory for features; sets that do not fit are computed anew.
        images_at_once: the size of a portion.
        kept: where features are kept; default: with this object.
    """

    def __init__(
        self,
        clip: Clip,
        extract: Callable[[Tensor], Tensor],
        limit_mib: int = LIMIT_MIB,
        *,
        images_at_once: int = 128,
        kept: Kept | None = None,
    ):
        self.clip, self.extract, self.images_at_once = clip, extract, images_at_once
        self._limit = limit_mib * 2**20
        self._kept: Kept = WeakKeyDictionary() if kept is None else kept

    @classmethod
    def of_backbone(
        cls, clip: Clip, limit_mib: int = LIMIT_MIB, *, images_at_once: int = 128
    ) -> "FrozenFeatures":
        """Unit-norm image features of the plain backbone, kept for the other runs of this process, too."""
        kept = _of_backbones.setdefault(clip, {}).setdefault(images_at_once, WeakKeyDictionary())
        return cls(clip, clip.encode_image, limit_mib, images_at_once=images_at_once, kept=kept)

    @torch.no_grad()
    def parts(self, data: ImageData, *, again: bool = True) -> Iterator[Float[Tensor, "b raw"]]:
        """Features of all images, test transform, in file order, some at a time.

        Args:
            again: whether this run will ask for them again; if not, only a small set is kept.
        """
        if data in self._kept:
            yield from self._kept[data].split(self.images_at_once)
            return
        parts: list[Tensor] | None = []
        for indices in torch.arange(len(data)).split(self.images_at_once):
            images, _ = load_batch(data, indices, self.clip.eval_transform)
            part = self.extract(images.to(self.clip.device))
            if parts is not None:
                size = part[0].nbytes * len(data)
                fits = size <= self._free() and (again or size <= _SMALL * self._limit)
                parts = [*parts, part] if fits else None
            yield part
        if parts:
            self._kept[data] = torch.cat(parts)

    def of(self, data: ImageData, *, again: bool = True) -> Float[Tensor, "n raw"]:
        """Features of all images at once."""
        parts = list(self.parts(data, again=again))
        return self._kept[data] if data in self._kept else torch.cat(parts)

    def _free(self) -> int:
        return self._limit - sum(features.nbytes for features in self._kept.values())
