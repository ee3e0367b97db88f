"""Weights: read from a file without running code from it, check, load, hash."""

import hashlib
import json
import pickle
import re
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
    is_state_dict,
    is_torchscript,
    open_clip_names,
    read_torchscript,
    unwrapped,
    without_notes,
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
        if _is_safetensors(path):
            content: Any = load_file(path)
        elif is_torchscript(path):
            content = read_torchscript(path)
        else:
            with warnings.catch_warnings():  # a foreign pickle is refused below, in one line
                warnings.filterwarnings("ignore", "Detected pickle protocol")
                with path.open("rb") as file:  # opened: torch would judge it by its ending
                    content = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"cannot read the weights in {path}: {_reason(path, error)}") from error
    except _OTHER_CONTENT as error:
        raise UserError(
            f"{path} is not a weights file, or it is damaged; fetch it again"
        ) from error
    content = without_notes(unwrapped(content))
    if not is_state_dict(content):
        found = (
            f"the entries {', '.join(map(str, list(content)[:5]))}"
            if isinstance(content, dict)
            else "none"
        )
        raise UserError(
            f"{path} does not contain named tensors: found {found}; save model.state_dict() alone"
        )
    return open_clip_names(content)


def _is_safetensors(path: Path) -> bool:
    # By content: the ending may be another one.
    with path.open("rb") as file:
        size, first = file.read(8), file.read(1)
    return first == b"{" and int.from_bytes(size, "little") < path.stat().st_size


def _reason(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "it is empty; fetch it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself; fetch it with git lfs pull"
    if start.lstrip().startswith(b"<"):
        return "it is a web page; fetch the file itself"
    if isinstance(error, pickle.UnpicklingError) and (
        held := re.search(r"GLOBAL (\S+)", str(error))
    ):
        return (
            f"its pickle holds {held[1]}, and nothing but tensors, numbers and texts is read from "
            "pickles; save model.state_dict() alone"
        )
    return (
        "it is damaged, or its pickle holds more than tensors, numbers and texts, which is not "
        "allowed; fetch it again, or save model.state_dict() alone"
    )


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
    for key, value in state.items():
        _check_values(path, key, value, expected[key])
    model.load_state_dict(state)


def _check_values(path: Path, name: str, value: Tensor, expected: Tensor) -> None:
    # Copied into the model, quantized weights would be taken at face value, without a word.
    if value.layout != torch.strided or (
        expected.is_floating_point() and not value.is_floating_point()
    ):
        kind = f"{value.layout} {value.dtype}".replace("torch.", "").removeprefix("strided ")
        raise UserError(
            f"{name} in {path} has the type {kind}; give weights in float32, float16 or bfloat16"
        )
    if not value.isfinite().all():
        raise UserError(
            f"{name} in {path} holds values that are no numbers (nan or inf): its training diverged; "
            "give an earlier checkpoint"
        )


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
