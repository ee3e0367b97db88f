"""Streams of tasks: what is learned, in which order."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlcl_toolkit.streams.base import (
        ImageData,
        Task,
        TaskStream,
        batches,
        load_batch,
        resolve_order,
    )
    from vlcl_toolkit.streams.pictures import PictureData, joined

__all__ = [
    "ImageData",
    "PictureData",
    "Task",
    "TaskStream",
    "batches",
    "joined",
    "load_batch",
    "resolve_order",
]


def __getattr__(name: str) -> Any:  # imported when used: names and facts of streams need no torch
    if name in __all__:
        module = "pictures" if name in ("PictureData", "joined") else "base"
        return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
