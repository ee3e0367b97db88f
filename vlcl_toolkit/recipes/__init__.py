"""Recipes: the settings of each method on a stream, as YAML files beside this one."""

from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).parent


def recipe_config(method_name: str, stream_id: str) -> dict[str, Any]:
    """Settings that differ from the paper's defaults; empty where there is no recipe.

    A recipe `mini.yaml` serves the streams "mini" and "mini-<anything>"; the longest name wins.
    """
    fitting = [
        path
        for path in _FOLDER.glob("*.yaml")
        if stream_id == path.stem or stream_id.startswith(path.stem + "-")
    ]
    if not fitting:
        return {}
    best = max(fitting, key=lambda path: len(path.stem))
    return yaml.safe_load(best.read_text(encoding="utf-8")).get(method_name) or {}
