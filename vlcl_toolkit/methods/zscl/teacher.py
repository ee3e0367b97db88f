"""A frozen teacher in the student's own model: weights exchanged for the forward pass, outputs cached."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.methods.inference import run_batches
from vlcl_toolkit.sharding import other_batch
from vlcl_toolkit.streams.base import ImageData

_AT_ONCE = 256  # images or texts in one forward; fixed, so that a resumed run finds the same bits


@contextlib.contextmanager
def other_weights(
    parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]
) -> Iterator[None]:
    """Context: the parameters hold `weights`; nothing is copied, and no graph may be built."""
    own = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = weights[name]
        with torch.no_grad():
            yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]


class Teacher:
    """Unit-norm features of a CLIP with other weights than the one being trained.

    Outputs for whole sets of images and texts are cached until `forget`, or until other sets come.
    """

    def __init__(
        self,
        clip: Clip,
        parameters: Mapping[str, nn.Parameter],
        weights: Callable[[], Mapping[str, Tensor]],
    ):
        """
        Args:
            parameters: those of `clip.model` that differ between teacher and student.
            weights: gives the teacher's values of them.
        """
        self.clip, self.parameters, self.weights = clip, parameters, weights
        self.forget()

    def forget(self) -> None:
        """Call when the teacher's weights change."""
        self._images: tuple[ImageData, Tensor] | None = None
        self._texts: tuple[Tensor, Tensor] | None = None

    def images(
        self, images: Float[Tensor, "part 3 h w"], total: int | None = None
    ) -> Float[Tensor, "b dim"]:
        """Features of transformed images; `total`: see `other_batch`, None: that of the step."""
        batch = contextlib.nullcontext() if total is None else other_batch(total)
        with other_weights(self.parameters, self.weights()), batch:
            return self.clip.encode_image(images)

    def all_images(self, data: ImageData) -> Float[Tensor, "n dim"]:
        """Features of every image of `data`, with the evaluation transform, computed once."""
        if self._images is None or self._images[0] is not data:
            with other_weights(self.parameters, self.weights()):
                parts = run_batches(self.clip.encode_image, self.clip, data, _AT_ONCE)
                self._images = data, torch.cat(list(parts))
        return self._images[1]

    def texts(self, tokens: Int[Tensor, "n context"]) -> Float[Tensor, "n dim"]:
        """Features of token ids, computed once."""
        if self._texts is None or self._texts[0] is not tokens:
            with other_weights(self.parameters, self.weights()):
                parts = [self.clip.encode_text(part) for part in tokens.split(_AT_ONCE)]
            self._texts = tokens, torch.cat(parts)
        return self._texts[1]
