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
    from vlcl_toolkit.clip import Clip, load_clip
    from vlcl_toolkit.errors import UserError
    from vlcl_toolkit.evaluation import metrics
    from vlcl_toolkit.events import StopRun
    from vlcl_toolkit.methods import Method, make_method, method_names, register
    from vlcl_toolkit.results import RunResult
    from vlcl_toolkit.streams import ImageData, Task, TaskStream, load_stream
    from vlcl_toolkit.training import run

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
    "run",
]

_MODULES = {
    "clip": ("Clip", "load_clip"),
    "errors": ("UserError",),
    "evaluation": ("metrics",),
    "events": ("StopRun",),
    "methods": ("Method", "make_method", "method_names", "register"),
    "results": ("RunResult",),
    "streams": ("ImageData", "Task", "TaskStream", "load_stream"),
    "training": ("run",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
