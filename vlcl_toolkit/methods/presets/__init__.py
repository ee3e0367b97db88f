"""Recipes: the settings of each method on a stream, as YAML files beside this one.

`protocols/` names what a whole published run needs besides; see protocol.py.
"""

from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).parent


def preset_settings(method_name: str, stream_id: str) -> dict[str, Any]:
    """Settings that differ from the paper's defaults; empty where there is no recipe.

    A recipe `mini.yaml` serves the streams "mini" and "mini-<anything>"; the longest name wins. With
    `include: other` the settings of another recipe are taken first.
    """
    fitting = [
        path
        for path in _FOLDER.glob("*.yaml")
        if stream_id == path.stem or stream_id.startswith(path.stem + "-")
    ]
    if not fitting:
        return {}
    return _read(max(fitting, key=lambda path: len(path.stem)), method_name)


def _read(path: Path, method_name: str) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    other = content.get("include")
    included = _read(_FOLDER / f"{other}.yaml", method_name) if other else {}
    return included | (content.get(method_name) or {})
