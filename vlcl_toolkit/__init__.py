"""Continual learning of CLIP models: methods, streams, metrics and the loop that joins them.

    import vlcl_toolkit as vlcl

    clip = vlcl.load_clip("mini")
    stream = vlcl.load_stream("mini")
    result = vlcl.run("finetune", stream, clip, seed=0)
    print(result.accuracy.round(1), result.metrics)

The names below are imported when they are first used, so that `import vlcl_toolkit` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlcl_toolkit.clip.model import Clip
    from vlcl_toolkit.errors import UserError
    from vlcl_toolkit.load import load_clip, load_stream, register_stream
    from vlcl_toolkit.methods import Method, make_method, method_names, register
    from vlcl_toolkit.streams import ImageData, Task, TaskStream
    from vlcl_toolkit.training.events import StopRun
    from vlcl_toolkit.training.loop import run
    from vlcl_toolkit.training.metrics import metrics
    from vlcl_toolkit.training.results import RunResult

__all__ = [
    "Clip",
    "ImageData",
    "Method",
    "RunResult",
    "StopRun",
    "Task",
    "TaskStream",
    "UserError",
    "load_clip",
    "load_stream",
    "make_method",
    "method_names",
    "metrics",
    "register",
    "register_stream",
    "run",
]

_MODULES = {
    "clip.model": ("Clip",),
    "errors": ("UserError",),
    "load": ("load_clip", "load_stream", "register_stream"),
    "methods": ("Method", "make_method", "method_names", "register"),
    "streams": ("ImageData", "Task", "TaskStream"),
    "training.events": ("StopRun",),
    "training.loop": ("run",),
    "training.metrics": ("metrics",),
    "training.results": ("RunResult",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
