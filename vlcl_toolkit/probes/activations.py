"""Activations of a tower, and how far they are from those of the frozen CLIP.

Activation points: block 0 is what enters the first block (embedding, position, first LayerNorm),
block k is the residual stream after block k. Of every input two vectors are kept: the token that is
pooled ("class") and the mean over the other tokens ("rest"; of a text, those before its end).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlcl_toolkit.clip.model import Clip

Vectors = Float[np.ndarray, "n width"]


class Tap:
    """Collects activations of both towers while its context is open.

    Attributes:
        image, text: `[rows, blocks + 1, 2, width]` of every forward pass, in order.
    """

    def __init__(self, clip: Clip):
        self.model: Any = clip.model
        self.image: list[Tensor] = []
        self.text: list[Tensor] = []
        self._ends: Tensor | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Context: forward passes are collected."""
        model = self.model
        visual, text = model.visual.transformer, model.transformer
        handles = [model.token_embedding.register_forward_hook(self._note_ends)]
        for tower, found in ((visual, self.image), (text, self.text)):
            handles += self._hooks(tower, found, is_text=tower is text)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, tower: Any, found: list[Tensor], *, is_text: bool) -> list[Any]:
        points: list[Tensor] = []

        def note(x: Tensor) -> None:
            points.append(self._two_vectors(x if tower.batch_first else x.transpose(0, 1), is_text))

        def begin(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            note(inputs[0])

        def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            note(output)

        def finish(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found.append(torch.stack(points, dim=1))
            points.clear()

        first = tower.resblocks[0].register_forward_pre_hook(begin)
        hooks = [block.register_forward_hook(after) for block in tower.resblocks]
        return [first, *hooks, tower.register_forward_hook(finish)]

    def _note_ends(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._ends = inputs[0].argmax(dim=-1)

    def _two_vectors(self, x: Tensor, is_text: bool) -> Float[Tensor, "rows 2 width"]:
        x = x.detach().float()
        if not is_text:
            return torch.stack((x[:, 0], x[:, 1:].mean(dim=1)), dim=1)
        assert self._ends is not None
        ends = self._ends
        before = (torch.arange(x.shape[1], device=x.device) < ends[:, None]).float()
        rest = (x * before[..., None]).sum(dim=1) / before.sum(dim=1, keepdim=True)
        return torch.stack((x[torch.arange(len(x), device=x.device), ends], rest), dim=1)


def drift_measures(
    now: Float[np.ndarray, "n points 2 width"], frozen: Float[np.ndarray, "n points 2 width"]
) -> Float[np.ndarray, "points 2 3"]:
    """relative_norm, cosine and cka at every activation point and position."""
    measured = np.empty((*now.shape[1:3], 3), dtype=np.float32)
    for point, position in np.ndindex(*now.shape[1:3]):
        a = now[:, point, position].astype(np.float64)
        b = frozen[:, point, position].astype(np.float64)
        measured[point, position] = (relative_norm(a, b), cosine(a, b), linear_cka(a, b))
    return measured


def relative_norm(now: Vectors, frozen: Vectors) -> float:
    """Length of the change over the length before, mean over inputs; 0 = unchanged."""
    return float((np.linalg.norm(now - frozen, axis=1) / np.linalg.norm(frozen, axis=1)).mean())


def cosine(now: Vectors, frozen: Vectors) -> float:
    """Cosine between now and before, mean over inputs."""
    lengths = np.linalg.norm(now, axis=1) * np.linalg.norm(frozen, axis=1)
    return float(((now * frozen).sum(axis=1) / lengths).mean())


def linear_cka(a: Float[np.ndarray, "n p"], b: Float[np.ndarray, "n q"]) -> float:
    """Linear centred kernel alignment of two representations of the same n inputs, 0 .. 1.

    1 for any rotation, shift and overall scale; nan if one of them does not vary at all. Biased
    upwards where n is not much larger than the dimension: compare values of equal n only.

    Source: Kornblith et al. 2019, section 3 (HSIC with linear kernels), in float64.
    """
    gram_a, gram_b = _centred_gram(a), _centred_gram(b)
    lengths = np.linalg.norm(gram_a) * np.linalg.norm(gram_b)
    return float((gram_a * gram_b).sum() / lengths) if lengths > 0 else float("nan")


def _centred_gram(x: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n n"]:
    x = x.astype(np.float64)
    centred = x - x.mean(axis=0)
    if np.abs(centred).max() <= 1e-6 * np.abs(x).max():  # constant up to float32's rounding
        return np.zeros((len(x), len(x)))
    return centred @ centred.T
