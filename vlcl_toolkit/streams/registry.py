"""`load_stream`: streams by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.streams.base import TaskStream

_FOLDER = "folder:"
_MATERIAL = {"root": "given_root", "cache": "cache", "skip_unreadable": "skip_unreadable"}
_MATERIAL |= {"verify": "verify"}


def stream_names() -> tuple[str, ...]:
    """The names that `load_stream` knows, besides "folder:/path"."""
    from vlcl_toolkit.streams import class_incremental, mtil

    return ("mini", *mtil.VARIANTS, *class_incremental.VARIANTS)


def load_stream(name: str = "mini", **options: Any) -> TaskStream:
    """Load a stream by name.

    Args:
        name: "mini" (embedded), "mtil", "mtil-II", "mtil-5shot", "mtil-16shot", "cifar100-10", ...
            (see `stream_names`), or "folder:/path" (see `folder.py`).
        options: of full-size streams and folders:
            root: folder of the data sets; default: the environment variable VLCL_DATA.
            cache: folder for decoded images. skip_unreadable: leave out damaged images.
            verify: False for replicas of the data sets, whose sizes are not the published ones;
            default: True but for those of `write_replicas`.
            split: of MTIL, "zscl" or "coop". sets: of MTIL, only these. seed: of few-shot draws.
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
        from vlcl_toolkit.streams.mini import mini_stream

        if options:
            raise UserError(f"the stream 'mini' takes no options; found {sorted(options)}")
        return mini_stream()
    from vlcl_toolkit.streams import class_incremental, mtil

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

    from vlcl_toolkit.streams.material import Material
    from vlcl_toolkit.streams.replicas import is_replica

    material = {_MATERIAL[k]: v for k, v in options.items() if k in _MATERIAL}
    others = {k: v for k, v in options.items() if k not in (*_MATERIAL, "captions")}
    if isinstance(others.get("reference"), (str, Path)):
        from vlcl_toolkit.streams.reference import reference_source

        source, captions = str(others["reference"]), options.get("captions")
        others["reference"] = reference_source(source, options.get("root"), captions)
    known = set(inspect.signature(function).parameters) - {"name", "path", "material"}
    for option in others:
        if option not in known:
            raise unknown_name(
                f"option of {name!r}", option, known | _MATERIAL.keys() | {"captions"}
            )
    if root:
        material.setdefault("verify", not is_replica(options.get("root")))
    else:
        material.setdefault("given_root", first)
    return function(first, Material(**material), **others)
