"""The backbone: one frozen `open_clip` CLIP with its tokenizer, transforms, device and precision.

The miniature and ViT-B/16 are the same class and take the same path. Methods attach to
`clip.model` and reuse the functions here.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import open_clip
import torch
from jaxtyping import Float, Int
from open_clip.model import CLIP
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from vlcl_toolkit.clip.transforms import ImageTransform
from vlcl_toolkit.clip.weights import hash_tensors
from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.sharding import (
    is_sharded,
    other_batch,
    process_group,
    run_sharded,
    run_sharded_global,
)

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TEXTS_AT_ONCE = 512  # bounds the memory of a large prompt ensemble
_LENGTHS = WeakTensorKeyDictionary()  # avoids a GPU sync in every step


def normalize(x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Divide by the L2 norm of the last axis, without an epsilon, as OpenAI's CLIP does."""
    return x / x.norm(dim=-1, keepdim=True)


def encode_tokens(
    model: CLIP,
    tokens: Int[Tensor, "n context"],
    *,
    length: int | None = None,
) -> Float[Tensor, "n dim"]:
    """Text features, not normalised, of token ids.

    The tower runs only up to the last end-of-text token of the batch: with a causal mask nothing
    behind it can reach the pooled position, so the result is the full tower's.

    Args:
        model: an open_clip CLIP with a causal text tower.
        tokens: ids with the end-of-text id, the largest of each row, at the pooled position.
        length: run over that many positions instead (where `tokens` are a part of a batch).
    """
    ends = tokens.argmax(dim=-1)
    if length is None:
        length = text_length(tokens)
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x[torch.arange(len(x), device=x.device), ends])
    projection = model.text_projection
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def text_length(tokens: Int[Tensor, "n context"]) -> int:
    """Positions up to the last end-of-text token; read from the device once per tensor."""
    if tokens not in _LENGTHS:
        _LENGTHS[tokens] = int(tokens.argmax(dim=-1).max()) + 1
    return _LENGTHS[tokens]


class Clip:
    """A frozen CLIP model ready for use.

    Attributes:
        model: the `open_clip.model.CLIP`, in eval mode, no parameter requires a gradient.
        train_transform, eval_transform: image -> normalised float tensor; see `ImageTransform`.
        weights_sha256: hash of the weights' names, shapes and values, whatever file they came from.
        activation: "quick_gelu" (OpenAI's weights) or "gelu"; weights of one compute nonsense with the other.
        image_size, embed_dim: pixels of a side; dimensions of the joint space.
        holder: name of the method that is attached, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        name: str,
        pretrained: str = "",
        device: str | torch.device = "cpu",
        precision: Precision = "fp32",
    ):
        """Wrap `model` (frozen and moved to `device` in place).

        Raises:
            UserError: the model is not a plain ViT CLIP, or the device or precision is unknown.
        """
        _check_architecture(model, name)
        if precision not in _DTYPES:
            raise unknown_name("precision", precision, _DTYPES)
        self.device = find_device(device)
        _check_precision(precision, self.device)
        self.model: CLIP = model.to(self.device).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name, self.pretrained, self.precision = name, pretrained, precision
        visual: Any = model.visual
        self.image_size: int = visual.image_size[0]
        self.embed_dim: int = visual.output_dim
        mean = getattr(visual, "image_mean", open_clip.OPENAI_DATASET_MEAN)
        std = getattr(visual, "image_std", open_clip.OPENAI_DATASET_STD)
        self.train_transform = ImageTransform(self.image_size, mean, std, augment=True)
        self.eval_transform = ImageTransform(self.image_size, mean, std, augment=False)
        self._weights: dict[str, Tensor] = dict(model.state_dict(keep_vars=True))
        self._versions = [tensor._version for tensor in self._weights.values()]
        self.weights_sha256 = hash_tensors(self._weights)
        quick = any(isinstance(part, QuickGELU) for part in model.modules())
        self.activation = "quick_gelu" if quick else "gelu"
        self.holder: str | None = None
        self._scale: tuple[tuple[int, int], float] = (0, -1), 0.0

    def __repr__(self) -> str:
        weights = f"{self.pretrained} {self.weights_sha256[:12]}".strip()
        return f"Clip({self.name}, {weights}, {self.device}, {self.precision})"

    def has_own_weights(self) -> bool:
        """Whether the weights are those it was made with; computed only after they were written to."""
        versions = [tensor._version for tensor in self._weights.values()]
        if versions != self._versions and hash_tensors(self._weights) == self.weights_sha256:
            self._versions = versions
        return versions == self._versions

    def autocast(self) -> contextlib.AbstractContextManager:
        """Context in which the towers run in this model's precision (weights stay float32)."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "n context"]:
        """Token ids on the model's device."""
        return self.tokenizer(list(texts)).to(self.device)

    def encode_image(self, images: Float[Tensor, "part 3 h w"]) -> Float[Tensor, "b dim"]:
        """Unit-norm float32 features of transformed images.

        If batches are sharded over ranks (`sharding.py`): of the whole batch.
        """

        def tower(part: Tensor) -> Tensor:
            with self.autocast():
                features = self.model.visual(part.to(self.device))
            return normalize(features.float())

        return run_sharded(tower, images)

    def encode_two(
        self,
        images: Float[Tensor, "part 3 h w"],
        others: Float[Tensor, "other_part 3 h w"],
        total: int,
    ) -> tuple[Float[Tensor, "b dim"], Float[Tensor, "r dim"]]:
        """`encode_image` of two sets, in one forward pass if batches are not sharded.

        Args:
            total: of the whole batch that `others` are a part of.
        """
        if is_sharded():
            own = self.encode_image(images)
            with other_batch(total):
                return own, self.encode_image(others)
        features = self.encode_image(torch.cat([images, others]))
        own, rest = features.split([len(images), len(others)])
        return own, rest

    def encode_text(self, tokens: Int[Tensor, "n context"]) -> Float[Tensor, "n dim"]:
        """Unit-norm float32 features of token ids."""
        length = text_length(tokens)

        def tower(part: Tensor) -> Tensor:
            with self.autocast():
                features = encode_tokens(self.model, part, length=length)
            return normalize(features.float())

        return run_sharded_global(tower, tokens)

    def class_features(
        self, class_names: Sequence[str], templates: Sequence[str]
    ) -> Float[Tensor, "classes dim"]:
        """Classifier weights: encode every template, normalise, average, normalise again.

        Source: CLIP (Radford et al. 2021), section 3.1.4, prompt ensembling in embedding space.
        """
        texts = [template.format(name) for name in class_names for template in templates]
        tokens = self.tokenize(texts)
        features = torch.cat([self.encode_text(part) for part in tokens.split(_TEXTS_AT_ONCE)])
        return normalize(features.unflatten(0, (len(class_names), len(templates))).mean(dim=1))

    @property
    def logit_scale(self) -> float:
        """The factor between cosine similarity and logit (100 in OpenAI's models)."""
        parameter = self.model.logit_scale
        version = (id(parameter), parameter._version)
        if version != self._scale[0]:  # avoids a GPU sync in every step
            self._scale = version, float(parameter.detach().exp())
        return self._scale[1]

    def logits(
        self,
        image_features: Float[Tensor, "b dim"],
        class_features: Float[Tensor, "classes dim"],
    ) -> Float[Tensor, "b classes"]:
        """Scaled cosine similarities."""
        return self.logit_scale * image_features @ class_features.T


def find_device(device: str | torch.device) -> torch.device:
    """Resolve "auto", give each process of torchrun a GPU of its own, check that the device exists.

    Raises:
        UserError: no such device on this machine.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    started = process_group()
    if str(device) == "cuda" and started.world_size > 1:
        there = torch.cuda.device_count()
        if there < started.local_world_size:
            raise UserError(
                f"{started.local_world_size} processes on this machine need as many GPUs; found {there}; "
                "lower --nproc-per-node, or use --device cpu"
            )
        device = f"cuda:{started.local_rank}"
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
        if found.type == "meta":  # has no numbers
            raise RuntimeError
    except (RuntimeError, AssertionError) as error:
        named = "no CUDA device" if str(device) == "cuda" else f"no device {str(device)!r}"
        raise UserError(f"{named} is available on this machine; use 'cpu' or 'auto'") from error
    return found


def _check_precision(precision: Precision, device: torch.device) -> None:
    if device.type != "cuda" or precision == "fp32":
        return
    major, minor = torch.cuda.get_device_capability(device)
    if precision == "bf16" and major < 8:  # emulated there, slower than float32
        raise UserError(
            f"bf16 needs a GPU of compute capability 8.0 or newer; {device} has {major}.{minor}; "
            "use fp16 or fp32"
        )
    if precision == "fp16" and (major, minor) < (5, 3):
        raise UserError(
            f"fp16 needs a GPU of compute capability 5.3 or newer; {device} has {major}.{minor}; "
            "use fp32"
        )


def _check_architecture(model: nn.Module, name: str) -> None:
    # Subclasses and look-alikes run other forward passes than the one in `encode_tokens`.
    if type(model) is not CLIP or not isinstance(model.visual, VisionTransformer):
        raise not_plain(name)
    if model.attn_mask is None or model.text_pool_type != "argmax":
        raise not_plain(name)


def not_plain(name: str) -> UserError:
    """The error for a model whose forward passes are not those of `encode_tokens`."""
    return UserError(
        f"{name} is not a CLIP with a ViT image tower and a causal text tower; "
        "choose one that is, e.g. 'mini', 'ViT-B-16-quickgelu' or 'ViT-B-32'"
    )
