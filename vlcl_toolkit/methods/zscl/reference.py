"""What ZSCL and LwF distil on: images without labels, and texts as token ids."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.zscl.config import ReferenceTexts
from vlcl_toolkit.streams.base import ImageData, Reference

OF_THE_STREAM = ("sentences", "class_names")


class ReferenceMaterial:
    """Reference images and texts as the settings choose them.

    Attributes:
        images: the stream's reference images, or None; labels are zeros.
        random_tokens: the random texts of this task, or None.
    """

    def __init__(self, clip: Clip, texts: ReferenceTexts, *, cut: bool):
        """
        Args:
            texts: which texts.
            cut: cut long texts without their end token; see `tokenize_cut`.
        """
        self.clip, self.texts, self.cut = clip, texts, cut
        self.images: ImageData | None = None
        self.random_tokens: Tensor | None = None
        self._tokens: Tensor | None = None

    def take(self, reference: Reference) -> None:
        """Read the stream's reference material.

        Raises:
            UserError: there are no texts of the kind that the settings ask for.
        """
        self.images = reference.unlabelled
        if self.texts in OF_THE_STREAM and not getattr(reference, self.texts):
            needed = {"sentences": "captions", "class_names": "names of its classes"}[self.texts]
            raise UserError(
                f"reference_texts={self.texts!r} distils on texts; the reference material has images but no "
                f"{needed}; give a file of captions (--captions, one sentence per line), or set "
                "reference_texts='task_prompts'"
            )
        if self.texts == "sentences":
            self._tokens = self._tokenize(reference.sentences)
        elif self.texts == "class_names":
            self._tokens = self._tokenize([f"a photo of a {x}." for x in reference.class_names])

    def enter_task(self, prompts: Sequence[str], previous: Sequence[str]) -> None:
        """Take a task's class prompts; `previous` are those of the tasks before it."""
        if self.texts == "task_prompts":
            self._tokens = self._tokenize(prompts)
        elif self.texts == "seen_prompts":
            self._tokens = self._tokenize([*previous, *prompts])

    def begin_task(self, count: int, generator: torch.Generator) -> None:
        """Sample `count` random texts, if texts are random."""
        if self.texts == "random":
            tokenizer, vocabulary = self.clip.tokenizer, self.clip.model.vocab_size
            sampled = random_sentences(tokenizer, vocabulary, count, generator=generator)
            self.random_tokens = sampled.to(self.clip.device)

    @property
    def tokens(self) -> Int64[Tensor, "texts context"]:
        """Token ids of the reference texts; the same object as long as they do not change."""
        tokens = self.random_tokens if self.texts == "random" else self._tokens
        assert tokens is not None, "take, enter_task and begin_task come first"
        return tokens

    def _tokenize(self, texts: Sequence[str]) -> Tensor:
        if not self.cut:
            return self.clip.tokenize(texts)
        tokens = tokenize_cut(self.clip.tokenizer, texts, self.clip.model.context_length)
        return tokens.to(self.clip.device)


def random_sentences(
    tokenizer: Callable[[list[str]], Tensor],
    vocabulary: int,
    count: int,
    words: int = 10,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, "count context"]:
    """Sentences of tokens sampled uniformly from the whole vocabulary ("virtual vocabulary").

    As in the official code, special tokens can be sampled too; an end-of-text ends a sentence early.

    Args:
        vocabulary: number of token ids.
        generator: a CPU generator; None: torch's global one.

    Source: Ding et al. 2022 (LwF-VR), and ZSCL's official code.
    """
    empty = tokenizer([""])[0]  # start of text, end of text, padding
    texts = empty.repeat(count, 1)
    texts[:, 1 : words + 1] = torch.randint(vocabulary, (count, words), generator=generator)
    texts[:, words + 1] = empty[1]
    texts[:, words + 2 :] = empty[-1]
    return texts


def tokenize_cut(tokenizer: Any, texts: Sequence[str], context: int) -> Int64[Tensor, "n context"]:
    """Token ids as ZSCL's code makes them: a text that is too long is cut and loses its end.

    Such a text is pooled at whatever id is the largest. The tokenizers here keep the end instead.

    Args:
        tokenizer: one with `encode` (text -> ids without start and end).
        context: length of the text tower.
    """
    start, end, *_ = tokenizer([""])[0].tolist()
    rows = torch.zeros(len(texts), context, dtype=torch.int64)
    for row, text in zip(rows, texts, strict=True):
        ids = [start, *tokenizer.encode(text), end][:context]
        row[: len(ids)] = torch.tensor(ids)
    return rows
