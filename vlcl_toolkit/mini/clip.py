"""The miniature CLIP: a small open_clip model, a tokenizer with a reduced vocabulary, and its files.

Same classes as the full-size models (open_clip's CLIP with a ViT image tower and a causal text tower), only smaller.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from torch import Tensor

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.files import data_path, sha256_of
from vlcl_toolkit.mini.draw.canvas import SIZE

CONTEXT = 24
EMBED_DIM = 128
WEIGHTS_FILE = "mini_clip.safetensors"
CONFIG_FILE = "mini_clip.json"


class MiniTokenizer:
    """open_clip's byte-pair tokenizer with its ids re-numbered to the few that the miniature knows.

    The re-numbering keeps the order of ids, so that end-of-text stays the largest id and arg-max pooling holds.
    """

    def __init__(self, known_ids: Sequence[int]) -> None:
        """known_ids: ids of open_clip's vocabulary, ascending, without the two special tokens."""
        self.full = SimpleTokenizer(context_length=CONTEXT)
        self.known_ids = tuple(known_ids)
        specials = (self.full.sot_token_id, self.full.eot_token_id)
        self.small_id = {
            full: small for small, full in enumerate((*self.known_ids, *specials), start=1)
        }
        self.sot_token_id, self.eot_token_id = (self.small_id[token] for token in specials)
        self.vocab_size = len(self.small_id) + 1  # id 0 pads

    def encode(self, text: str) -> list[int]:
        """Ids of one text without start and end. Raises UserError for a word the miniature does not know."""
        ids = []
        for token in self.full.encode(text):
            if token not in self.small_id:
                unknown = self.full.decode([token]).strip()
                raise UserError(
                    f"the miniature CLIP does not know {unknown!r} (in {text!r}); it was trained on few words: "
                    "use words of its captions, or a full-size CLIP"
                )
            ids.append(self.small_id[token])
        return ids

    def __call__(self, texts: str | Iterable[str]) -> Int[Tensor, "n context"]:
        """Token ids [n, 24]; longer texts are cut and keep their end-of-text token."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        result = torch.zeros(len(texts), CONTEXT, dtype=torch.long)
        for row, text in zip(result, texts, strict=True):
            ids = [self.sot_token_id, *self.encode(text)[: CONTEXT - 2], self.eot_token_id]
            row[: len(ids)] = torch.tensor(ids)
        return result

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> "MiniTokenizer":
        """The tokenizer that knows exactly the words of ``texts``."""
        full = SimpleTokenizer(context_length=CONTEXT)
        return cls(sorted({token for text in texts for token in full.encode(text)}))


def new_model(tokenizer: MiniTokenizer) -> CLIP:
    """The miniature CLIP with random weights (about 1.2 million parameters); the caller seeds torch."""
    vision = CLIPVisionCfg(layers=4, width=128, head_width=32, patch_size=10, image_size=SIZE)
    text = CLIPTextCfg(
        context_length=CONTEXT, vocab_size=tokenizer.vocab_size, width=96, heads=3, layers=3
    )
    return CLIP(embed_dim=EMBED_DIM, vision_cfg=vision, text_cfg=text)


def load_mini(folder: Path | None = None) -> tuple[CLIP, MiniTokenizer]:
    """The pre-trained miniature and its tokenizer.

    folder: where ``mini_clip.safetensors`` and ``mini_clip.json`` lie; the packaged ones by default.
    Raises UserError if a file is missing or does not have the recorded hash.
    """
    advice = "reinstall the package or run data/mini/pretrain.py of a checkout"
    if folder is not None:
        advice = "give the folder of both files, or another --backbone for a weights file"
    folder = folder or data_path("mini")
    weights, config = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    for path in (weights, config):
        if not path.is_file():
            raise UserError(f"miniature CLIP: {path} is missing; {advice}")
    settings = json.loads(config.read_text())
    digest = sha256_of(weights)
    if digest != settings["sha256"]:
        raise UserError(
            f"miniature CLIP: {weights} is damaged (sha256 {digest[:12]}…, expected {settings['sha256'][:12]}…); "
            "reinstall the package or restore the file from version control"
        )
    tokenizer = MiniTokenizer(settings["token_ids"])
    model = new_model(tokenizer)
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    return model.eval(), tokenizer
