"""`load_clip` and `load_stream`: the one place that knows all backbones and all streams by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from vlcl_toolkit.clip.model import Clip, Precision, find_device, not_plain
from vlcl_toolkit.clip.random_weights import PREFIX, load_random
from vlcl_toolkit.clip.weights import load_weights
from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.streams.base import TaskStream

_FOLDER = "folder:"
_LOCATION = {"root", "cache", "skip_unreadable", "verify"}  # fields of `DataLocation`


def load_clip(
    name: str = "mini",
    *,
    pretrained: str | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "fp32",
    checkpoint: str | Path | None = None,
) -> Clip:
    """Load a backbone.

    Args:
        name: "mini" (embedded), any ViT CLIP of open_clip, e.g. "ViT-B-16-quickgelu", or
            "random:ViT-B-16-quickgelu:depth=2,..." for a dry run; see random_weights.py.
        pretrained: a weight set that open_clip knows for that model, e.g. "openai" (fetched once).
        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", ...
        precision: of the towers; weights are float32 in any case.
        checkpoint: a local weights file instead of `pretrained`; safetensors or `.pt`/`.pth`
            (read without pickle). For "mini": the folder of its two files.

    Raises:
        UserError: unknown name, weights or device; a damaged file; a model without ViT towers.
    """
    target = find_device(device)  # first: a missing device should not cost a download
    path = None if checkpoint is None else Path(checkpoint)
    if name == "mini":
        if pretrained is not None:
            raise UserError(f"'mini' has one set of weights; found pretrained={pretrained!r}; omit")
        from vlcl_toolkit.mini.clip import load_mini

        model, tokenizer = load_mini(path)
        source = str(path or "embedded")
    elif name.startswith(PREFIX):
        if pretrained is not None or path is not None:
            raise UserError(f"{name!r} has random weights; leave out pretrained= and checkpoint=")
        model, tokenizer, source = load_random(name)
    else:
        model, source = _load_open_clip(name, pretrained, path)
        tokenizer = open_clip.get_tokenizer(name)
    return Clip(model, tokenizer, name=name, pretrained=source, device=target, precision=precision)


def _load_open_clip(
    name: str, pretrained: str | None, checkpoint: Path | None
) -> tuple[nn.Module, str]:
    config = open_clip.get_model_config(name)
    if config is None:
        raise unknown_name("backbone", name, ["mini", *open_clip.list_models()])
    vision, text = config["vision_cfg"], config["text_cfg"]
    resnet = not isinstance(vision.get("layers"), int)  # a ResNet has a list of stages
    foreign = "timm_model_name" in vision or "hf_model_name" in text or config.get("custom_text")
    if resnet or foreign or "multimodal_cfg" in config:
        raise not_plain(name)
    if checkpoint is not None:
        model = open_clip.create_model(name, load_weights=False)
        load_weights(model, checkpoint)
        return model, str(checkpoint)
    known = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        choice = ", ".join(known) or "none"
        raise UserError(f"{name} needs weights; give pretrained= (known: {choice}) or checkpoint=")
    if pretrained not in known:
        raise unknown_name(f"weights of {name}", pretrained, known)
    try:
        return open_clip.create_model(name, pretrained=pretrained), pretrained
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        advice = "give a local file with checkpoint="
        raise UserError(f"cannot load {name}/{pretrained}: {reason}; {advice}") from error


def stream_names() -> tuple[str, ...]:
    """The names that `load_stream` knows, besides "folder:/path"."""
    from vlcl_toolkit.streams.full_size import class_incremental, mtil

    return ("mini", *mtil.VARIANTS, *class_incremental.VARIANTS)


def load_stream(name: str = "mini", **options: Any) -> TaskStream:
    """Load a stream by name.

    Args:
        name: "mini" (embedded), "mtil", "mtil-II", "mtil-5shot", "mtil-16shot", "cifar100-10", ...
            (see `stream_names`), or "folder:/path" (see `folder.py`).
        options: of full-size streams and folders:
            root: folder of the data sets; default: the environment variable VLCL_DATA.
            cache: folder for decoded images. skip_unreadable: leave out damaged images.
            verify: False for data sets whose sizes are not the published ones.
            split: of MTIL, "zscl" or "coop". sets: of MTIL, only these. seed: of few-shot sampling.
            reference: "imagenet", "tinyimagenet" or a folder of images; captions: a file of
            sentences; see `reference_source`.

    Raises:
        UserError: unknown name or option; a data set is missing or damaged.
    """
    if name.startswith(_FOLDER):
        from vlcl_toolkit.streams.folder import folder_stream

        path = Path(name.removeprefix(_FOLDER))
        return _call(folder_stream, name, options, path, root=False)
    if name == "mini":
        from vlcl_toolkit.mini.stream import mini_stream

        if options:
            raise UserError(f"the stream 'mini' takes no options; found {sorted(options)}")
        return mini_stream()
    from vlcl_toolkit.streams.full_size import class_incremental, mtil

    if name in mtil.VARIANTS:
        return _call(mtil.mtil_stream, name, options, name)
    if name in class_incremental.VARIANTS:
        return _call(class_incremental.class_incremental_stream, name, options, name)
    raise unknown_name("stream", name, stream_names())


def _call(
    function: Callable[..., TaskStream],
    name: str,
    options: dict[str, Any],
    first: Any,
    *,
    root: bool = True,
) -> TaskStream:
    import inspect

    from vlcl_toolkit.streams.location import DataLocation

    location = {k: v for k, v in options.items() if k in _LOCATION}
    others = {k: v for k, v in options.items() if k not in (*_LOCATION, "captions")}
    if isinstance(others.get("reference"), (str, Path)):
        from vlcl_toolkit.streams.full_size.reference import reference_source

        source, captions = str(others["reference"]), options.get("captions")
        others["reference"] = reference_source(source, options.get("root"), captions)
    known = set(inspect.signature(function).parameters) - {"name", "path", "location"}
    for option in others:
        if option not in known:
            raise unknown_name(f"option of {name!r}", option, known | _LOCATION | {"captions"})
    if not root:
        location.setdefault("root", first)
    return function(first, DataLocation(**location), **others)
