"""Options that several commands share."""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.training.execution import ONE_DEVICE, Execution

if TYPE_CHECKING:
    from vlcl_toolkit.clip.model import Clip

Backbone = Annotated["BackboneOptions", tyro.conf.arg(name="")]
KeyValues = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")]


@dataclass(frozen=True)
class BackboneOptions:
    """Which CLIP, where and how it computes."""

    backbone: str = "mini"
    """"mini" (embedded), any ViT CLIP of open_clip, e.g. ViT-B-16-quickgelu, or random weights for
    rehearsals: random:ViT-B-16-quickgelu:depth=2,width=64 (also pixels=, dim=, seed=)."""
    pretrained: str | None = None
    """Weights that open_clip knows for that backbone, e.g. openai."""
    checkpoint: Path | None = None
    """A local weights file instead (.safetensors, .pt, .pth)."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the towers."""
    execution: Execution = ONE_DEVICE
    """Devices, micro-batches, loading processes, ..."""

    def load(self) -> "Clip":
        """The backbone (imported late, to keep --help fast)."""
        from vlcl_toolkit.load import load_clip

        return load_clip(
            self.backbone,
            pretrained=self.pretrained,
            checkpoint=self.checkpoint,
            device=self.device,
            precision=self.precision,
        )


EMBEDDED = BackboneOptions()


def read_settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Settings written NAME=VALUE; UserError for another form, or a name that comes twice."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UserError(
                f"a setting is written NAME=VALUE; found {pair!r}; e.g. --set learning_rate=3e-4"
            )
        if name in settings:
            raise UserError(f"{name} is set twice; found {pair!r} last; leave one of them out")
        settings[name] = read_value(text)
    return settings


def read_value(text: str) -> Any:
    """A Python literal, or else the word itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # no literal: a word
        return text
