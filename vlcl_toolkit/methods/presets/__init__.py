"""Presets: settings of the methods on a backbone, as YAML files beside this one.

`<backbone>.yaml` holds for every stream on that backbone; `<backbone>/<stream>.yaml` for the stream
"<stream>" and for "<stream>-<anything>" (the longest name wins), and comes before it. There are two
backbones: "mini", whatever weights it has, and "full_size", every other one: the papers' settings are
those of ViT-B/16, and there are none for other models.
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vlcl_toolkit.methods.registry import config_class, make_config

if TYPE_CHECKING:
    from vlcl_toolkit.methods.base import Method

_FOLDER = Path(__file__).parent


def preset_settings(method_name: str, backbone: str, stream_id: str) -> dict[str, Any]:
    """Settings that differ from the method's defaults; empty where there is no preset.

    Args:
        backbone: name of the backbone, e.g. `clip.name`.
    """
    path = _find(backbone, stream_id)
    return _read(path, method_name) if path else {}


def choose_settings(
    method: "str | type[Method]", backbone: str, stream_id: str, config: Any = None
) -> tuple[Any, str]:
    """A method's settings, and in words where they come from.

    Args:
        config: as in `make_config`; a mapping, or None, goes on top of the preset.

    Raises:
        UserError: as `make_config`.
    """
    if config is not None and not isinstance(config, Mapping):
        return make_config(method, config), "given as a whole"
    name = method if isinstance(method, str) else method.name
    preset = preset_settings(name, backbone, stream_id)
    chosen = make_config(method, preset | dict(config or {}))
    names = [field.name for field in fields(config_class(method))]
    if not names:
        return chosen, "none to choose"
    path = _find(backbone, stream_id)
    source = "the method's defaults"
    if preset and path:
        of_the_stream = path.parent != _FOLDER
        source = f"preset {path.stem} ({'backbone and stream' if of_the_stream else 'backbone'})"
    given = ", ".join(config or ()) if len(config or ()) < len(names) else "all"
    return chosen, source + (f"; given: {given}" if given else "")


def _find(backbone: str, stream_id: str) -> Path | None:
    kind = "mini" if backbone == "mini" else "full_size"
    of_the_stream = [
        path
        for path in (_FOLDER / kind).glob("*.yaml")
        if stream_id == path.stem or stream_id.startswith(path.stem + "-")
    ]
    if of_the_stream:
        return max(of_the_stream, key=lambda path: len(path.stem))
    path = _FOLDER / f"{kind}.yaml"
    return path if path.is_file() else None


def _read(path: Path, method_name: str) -> dict[str, Any]:
    content = _content(path)
    other = content.get("include")
    included = _read(path.with_name(f"{other}.yaml"), method_name) if other else {}
    return included | (content.get(method_name) or {})


@lru_cache(maxsize=32)
def _content(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))
