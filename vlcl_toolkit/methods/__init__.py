"""Methods: how a stream is learned; a folder per paper, a file per method, all with the same parts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vlcl_toolkit.methods.registry import (
    make_config,
    make_method,
    method_class,
    method_names,
    register,
)

if TYPE_CHECKING:
    from vlcl_toolkit.methods.base import Method
    from vlcl_toolkit.methods.batch import Batch, BatchRequest
    from vlcl_toolkit.methods.official_checkpoints import import_official, load_imported

__all__ = [
    "Batch",
    "BatchRequest",
    "Method",
    "import_official",
    "load_imported",
    "make_config",
    "make_method",
    "method_class",
    "method_names",
    "register",
]


_MODULES = {"Method": "base", "Batch": "batch", "BatchRequest": "batch"}


def __getattr__(name: str) -> Any:  # what needs torch is imported when it is used
    if name in __all__:
        module = _MODULES.get(name, "official_checkpoints")
        return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
