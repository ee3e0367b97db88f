"""Streams of tasks: what is learned, in which order."""

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
