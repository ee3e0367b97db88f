"""Weights: read from a file without running code from it, check, load, hash."""

import hashlib
import json
import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vlcl_toolkit.clip.formats import (
    is_torchscript,
    open_clip_names,
    read_torchscript,
    unwrapped,
)
from vlcl_toolkit.errors import UserError

# What torch's reader raises on damaged or foreign files.
_OTHER_CONTENT = (
    *(LookupError, ValueError, TypeError, AttributeError, AssertionError, ArithmeticError),
    struct.error,
)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read `.safetensors`, or `.pt`/`.pth`/`.bin` without running code from it; see formats.py.

    Raises:
        UserError: no such file, a damaged file, or one that needs pickle to be read.
    """
    if not path.is_file():
        raise UserError(f"no weights file at {path}; check the path")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        elif is_torchscript(path):
            content = read_torchscript(path)
        else:
            with warnings.catch_warnings():  # a foreign pickle is refused below, in one line
                warnings.filterwarnings("ignore", "Detected pickle protocol")
                content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        advice = (
            "it is damaged, or its pickle holds more than tensors, numbers and texts, which is not "
            "allowed; fetch it again, or save model.state_dict() alone"
        )
        raise UserError(f"cannot read the weights in {path}: {advice}") from error
    except _OTHER_CONTENT as error:
        raise UserError(
            f"{path} is not a weights file, or it is damaged; fetch it again"
        ) from error
    content = unwrapped(content)
    if not isinstance(content, dict) or not all(torch.is_tensor(v) for v in content.values()):
        raise UserError(f"{path} does not contain named tensors; give a state dict")
    return open_clip_names(content)


def told_activation(path: Path) -> bool | None:
    """Whether a file's weights want QuickGELU: OpenAI's own archives, a `config.json` of Hugging Face
    beside the file; None: nothing tells."""
    if path.is_file() and is_torchscript(path):
        return True
    try:
        config = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
        return config["vision_config"].get("hidden_act", "quick_gelu") == "quick_gelu"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a weights file into `model`, all keys and shapes matching.

    Raises:
        UserError: the file is missing, damaged or of another model.
    """
    state = read_state(path)
    expected = model.state_dict()
    wrong = sorted(
        key
        for key in expected.keys() | state.keys()
        if key not in expected or key not in state or expected[key].shape != state[key].shape
    )
    if wrong:
        found = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
        raise UserError(
            f"{path} does not match this model: {len(wrong)} tensors differ in name or shape "
            f"({found}); choose the backbone that the file was saved from"
        )
    model.load_state_dict(state)


def hash_weights(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers."""
    return hash_tensors(model.state_dict())


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        content: Any = value.reshape(-1).view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()
