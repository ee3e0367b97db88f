"""`load_clip` and `load_stream`: the one place that knows all backbones and all streams by name, your own included."""

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg
from torch import nn

from vlcl_toolkit.clip.model import Clip, Precision, find_device, not_plain
from vlcl_toolkit.clip.random_weights import PREFIX, load_random
from vlcl_toolkit.clip.weights import load_weights, told_activation
from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.streams.splits import CLASS_INCREMENTAL, MTIL, XTAIL

_FOLDER = "folder:"
_LOCATION = {"root", "cache", "skip_unreadable", "verify"}  # fields of `DataLocation`
_BUILT_IN = ("mini", *MTIL, *XTAIL, *CLASS_INCREMENTAL)
_OWN: dict[str, Callable[..., TaskStream]] = {}  # what was registered
StreamFunction = TypeVar("StreamFunction", bound=Callable[..., TaskStream])


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
    path = None if checkpoint is None else Path(checkpoint).expanduser()
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
    # A name with a schema (hf-hub:, local-dir:) would be looked for in the network.
    config = None if ":" in name else open_clip.get_model_config(name)
    if config is None:
        raise unknown_name("backbone", name, ["mini", *open_clip.list_models()])
    vision, text = config["vision_cfg"], config["text_cfg"]
    resnet = not isinstance(vision.get("layers"), int)  # a ResNet has a list of stages
    foreign = "timm_model_name" in vision or "hf_model_name" in text or config.get("custom_text")
    if resnet or foreign or "multimodal_cfg" in config:
        raise not_plain(name)
    quick = bool(config.get("quick_gelu"))
    if checkpoint is not None:
        if (told := told_activation(checkpoint)) is not None and told != quick:
            raise _other_activation(name, f"the weights in {checkpoint}", told)
        with _silent():  # "initialized randomly": not for long
            model = open_clip.create_model(name, load_weights=False)
        load_weights(model, checkpoint)
        return model, str(checkpoint)
    known = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        choice = ", ".join(known) or "none"
        raise UserError(f"{name} needs weights; give pretrained= (known: {choice}) or checkpoint=")
    if pretrained not in known:
        raise unknown_name(f"weights of {name}", pretrained, known)
    told = get_pretrained_cfg(name, pretrained).get("quick_gelu")
    if told is not None and bool(told) != quick:
        raise _other_activation(name, f"the weights {pretrained!r}", bool(told))
    try:
        return open_clip.create_model(name, pretrained=pretrained), pretrained
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        advice = "give a local file with checkpoint="
        raise UserError(f"cannot load {name}/{pretrained}: {reason}; {advice}") from error


def _other_activation(name: str, weights: str, quick: bool) -> UserError:
    plain = name.removesuffix("-quickgelu")
    kinds = ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
    return UserError(
        f"{weights} were trained with {kinds[0]}, and {name} computes with {kinds[1]}; choose "
        f"{plain}{'-quickgelu' if quick else ''}"
    )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def register_stream(name: str) -> Callable[[StreamFunction], StreamFunction]:
    """Function decorator: make a function that returns a `TaskStream` known to `load_stream` by `name`.

    Running a notebook cell again replaces the function of the same name from the same module.

    Raises:
        UserError: the name is unfit, or belongs to another stream.
    """
    if not isinstance(name, str) or not name or name.startswith(_FOLDER):
        raise UserError(f"a stream needs a name, a short text; found {name!r}; choose another")

    def add(function: StreamFunction) -> StreamFunction:
        known, taken = _OWN.get(name), name in _BUILT_IN
        if known is not None:
            here = (function.__module__, function.__qualname__)
            taken = (known.__module__, known.__qualname__) != here
        if taken:
            owner = known.__qualname__ if known else "the toolkit"
            raise UserError(f"stream name {name!r} is taken by {owner}; choose another")
        _OWN[name] = function
        return function

    return add


@lru_cache(maxsize=1)
def load_plugins() -> None:
    """Import what installed packages offer under "vlcl_toolkit.plugins": it registers methods and streams."""
    for plugin in entry_points(group="vlcl_toolkit.plugins"):
        plugin.load()


def stream_names() -> tuple[str, ...]:
    """The names that `load_stream` knows, besides "folder:/path"."""
    load_plugins()
    return (*_BUILT_IN, *_OWN)


def load_stream(
    name: str = "mini", *, tasks: Sequence[int | str] | None = None, **options: Any
) -> TaskStream:
    """Load a stream by name.

    Args:
        name: "mini" (embedded), "mtil", "mtil-II", "mtil-5shot", "mtil-16shot", "xtail-16shot", "cifar100-10", ...
            (see `stream_names`), "folder:/path" (see `folder.py`), or one of `register_stream`.
        tasks: only these (names or indices), in this order; of MTIL and X-TAIL given by name, only
            their data sets have to be there.
        options: of your own stream, those of its function; of full-size streams and folders:
            root: folder of the data sets; default: the environment variable VLCL_DATA.
            cache: folder for decoded images. skip_unreadable: leave out damaged images.
            verify: False for data sets whose sizes are not the published ones.
            split: of MTIL, "zscl" or "coop". sets: of MTIL and X-TAIL, only these. seed: of few-shot sampling.
            reference: "imagenet", "tinyimagenet" or a folder of images; captions: a file of
            sentences; see `reference_source`.

    Raises:
        UserError: unknown name or option; a data set is missing or damaged.
    """
    if tasks is not None:
        names = [task for task in tasks if isinstance(task, str) and not task.isdecimal()]
        if len(names) == len(tasks) and (name in MTIL or name in XTAIL):
            options.setdefault("sets", names)
        return load_stream(name, **options).subset(tasks)
    if name.startswith(_FOLDER):
        from vlcl_toolkit.streams.folder import folder_stream

        if not name.removeprefix(_FOLDER).strip():
            raise UserError(f"{name!r} names no folder; write folder:/path")
        path = Path(name.removeprefix(_FOLDER))
        return _call(folder_stream, name, options, path, root=False)
    if name == "mini":
        from vlcl_toolkit.mini.stream import mini_stream

        if options:
            raise UserError(f"the stream 'mini' takes no options; found {sorted(options)}")
        return mini_stream()
    if name in MTIL:
        from vlcl_toolkit.streams.full_size.mtil import mtil_stream

        return _call(mtil_stream, name, options, name)
    if name in XTAIL:
        from vlcl_toolkit.streams.full_size.xtail import xtail_stream

        return _call(xtail_stream, name, options, name)
    if name in CLASS_INCREMENTAL:
        from vlcl_toolkit.streams.full_size.class_incremental import class_incremental_stream

        return _call(class_incremental_stream, name, options, name)
    if name not in stream_names():
        raise unknown_name("stream", name, stream_names())
    return _call_own(name, options)


def _call_own(name: str, options: dict[str, Any]) -> TaskStream:
    function = _OWN[name]
    parameters = inspect.signature(function).parameters
    any_option = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    for option in () if any_option else options:
        if option not in parameters:
            raise unknown_name(f"option of {name!r}", option, parameters)
    stream = function(**options)
    if not isinstance(stream, TaskStream):
        found = type(stream).__name__
        raise UserError(f"{function.__qualname__} must return a TaskStream; found {found}")
    return stream


def _call(
    function: Callable[..., TaskStream],
    name: str,
    options: dict[str, Any],
    first: Any,
    *,
    root: bool = True,
) -> TaskStream:
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
