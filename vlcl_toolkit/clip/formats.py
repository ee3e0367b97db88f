"""Weights files as people have them: whose names become open_clip's, and TorchScript archives without their code.

state dict        open_clip's and OpenAI's names, which are the same; alone or an entry of a training
                  script's checkpoint; with the prefixes of DataParallel, FSDP, torch.compile, or of a
                  module that the CLIP is a part of
Hugging Face      `model.safetensors` of a `CLIPModel`
TorchScript       OpenAI's own `ViT-B-16.pt`: a zip of a program and its tensors
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Beside the weights in OpenAI's files and Hugging Face's; open_clip makes the mask itself.
_NOT_WEIGHTS = re.compile(
    r"(input_resolution|context_length|vocab_size|attn_mask|.*\.position_ids)$"
)
_WRAPPERS = ("state_dict", "model", "model_state_dict")
# DataParallel names the whole "module.", the others any part.
_INSIDE = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PARALLEL = "module."
# Every state dict of a CLIP has one of them; what stands before it is the CLIP's place in a larger module.
_LANDMARKS = ("visual.conv1.weight", "vision_model.embeddings.class_embedding")


def unwrapped(content: Any) -> Any:
    """The state dict inside what training scripts save around it."""
    while isinstance(content, Mapping):
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        others = [value for value in content.values() if is_state_dict(value)]
        if not inner and len(others) != 1:
            break
        content = (inner or others)[0]
    return content


def is_state_dict(content: Any) -> bool:
    """Whether it is a mapping from names to tensors, with one at least."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) for name in content)
        and all(torch.is_tensor(value) for value in content.values())
    )


def without_notes(content: Any) -> Any:
    """A state dict without the numbers that stand beside the weights in OpenAI's files."""
    if not isinstance(content, Mapping):
        return content
    return {
        name: value
        for name, value in content.items()
        if not (isinstance(name, str) and _NOT_WEIGHTS.match(name))
    }


def open_clip_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under open_clip's names, whatever names they have."""
    found = {}
    prefix = _place(state)
    for name, value in state.items():
        name = _INSIDE.sub("", name).removeprefix(prefix)
        if not _NOT_WEIGHTS.match(name):
            found[name] = value
    if "vision_model.embeddings.class_embedding" in found:
        return _from_hugging_face(found)
    return found


def _place(state: Mapping[str, Tensor]) -> str:
    # What precedes the names of the one CLIP; "" where there are two, e.g. a model and its average.
    names = [_INSIDE.sub("", name) for name in state]
    places = {
        name.removesuffix(landmark)
        for landmark in _LANDMARKS
        for name in names
        if name == landmark or name.endswith(f".{landmark}")
    }
    if not places and all(name.startswith(_PARALLEL) for name in names):
        return _PARALLEL
    return places.pop() if len(places) == 1 else ""


# Hugging Face -> open_clip.

_HF_NAMES = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
}
_HF_LAYERS = {
    "text_model.final_layer_norm": "ln_final",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # their spelling
    "vision_model.post_layernorm": "visual.ln_post",
}
_HF_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_HF_TOWERS = {"text_model": "transformer", "vision_model": "visual.transformer"}
_HF_QUERY = re.compile(r"(.*\.self_attn)\.q_proj\.(weight|bias)$")
_HF_LAYER = re.compile(r"(text_model|vision_model)\.encoder\.layers\.(\d+)\.(.+)$")


def _from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, value in state.items():
        stem, _, kind = name.rpartition(".")
        layer = _HF_LAYER.match(stem)
        if name in _HF_NAMES:
            found[_HF_NAMES[name]] = value
        elif stem in _HF_LAYERS:
            found[f"{_HF_LAYERS[stem]}.{kind}"] = value
        elif name == "visual_projection.weight":
            found["visual.proj"] = value.T
        elif name == "text_projection.weight":
            found["text_projection"] = value.T
        elif query := _HF_QUERY.match(name):
            parts = [state[f"{query[1]}.{part}_proj.{kind}"] for part in "qkv"]
            tower, block, _ = _HF_LAYER.match(query[1] + ".q_proj").groups()  # type: ignore[union-attr]
            place = f"{_HF_TOWERS[tower]}.resblocks.{block}.attn.in_proj_{kind}"
            found[place] = torch.cat(parts)
        elif layer and layer[3] in _HF_BLOCK:
            place = f"{_HF_TOWERS[layer[1]]}.resblocks.{layer[2]}.{_HF_BLOCK[layer[3]]}.{kind}"
            found[place] = value
        elif not re.search(r"\.[kv]_proj\.(weight|bias)$", name):
            found[name] = value  # unknown: the comparison with the model names it
    return found


# TorchScript.


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of `torch.jit.save`, as OpenAI's own files are."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # no archive, or a damaged one
        return False


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers of a TorchScript archive; its program is neither compiled nor run.

    Raises:
        pickle.UnpicklingError, zipfile.BadZipFile, ...: it holds something else, or is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        (data,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = data.removesuffix("data.pkl")
        with archive.open(data) as file:
            module = _TensorsOnly(file, archive, root).load()
    found: dict[str, Tensor] = {}
    _collect(module, "", found)
    return found


class _Module:
    # Stands for every class that the program defines.
    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = dict(state)


def _collect(value: Any, name: str, found: dict[str, Tensor]) -> None:
    if torch.is_tensor(value):
        found[name] = value
    elif isinstance(value, _Module):
        for key, entry in vars(value).items():
            _collect(entry, f"{name}.{key}" if name else key, found)


_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "DoubleStorage": torch.float64,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


class _TensorsOnly(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str):
        super().__init__(file)
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        allowed = {
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
            ("collections", "OrderedDict"): dict,
        }
        if module == "torch.jit._pickle":  # lists of numbers
            return lambda values, *rest: values
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of weights")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, _, count = pid
        content = bytearray(self._archive.read(f"{self._root}data/{key}"))
        if not count:
            return torch.empty(0, dtype=dtype).untyped_storage()
        flat = torch.frombuffer(content, dtype=dtype, count=count)
        return torch.storage.TypedStorage(
            wrap_storage=flat.untyped_storage(), dtype=dtype, _internal=True
        )
