"""Streams of tasks: what is learned, in which order."""

from vlcl_toolkit.streams.base import (
    ImageData,
    Task,
    TaskStream,
    batches,
    load_batch,
    load_stream,
    resolve_order,
    stream_names,
)

__all__ = [
    "ImageData",
    "Task",
    "TaskStream",
    "batches",
    "load_batch",
    "load_stream",
    "resolve_order",
    "stream_names",
]
