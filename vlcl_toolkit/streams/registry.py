"""`load_stream`: streams by name."""

from collections.abc import Callable
from typing import Any

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.streams.base import TaskStream

_Loader = Callable[..., TaskStream]
_FOLDER = "folder:"


def _mini() -> TaskStream:
    from vlcl_toolkit.streams.mini import mini_stream

    return mini_stream()


_STREAMS: dict[str, _Loader] = {"mini": _mini}


def stream_names() -> tuple[str, ...]:
    """The names that `load_stream` knows."""
    return tuple(_STREAMS)


def load_stream(name: str = "mini", **options: Any) -> TaskStream:
    """Load a stream by name.

    Raises:
        UserError: unknown name.
    """
    if name not in _STREAMS:
        raise unknown_name("stream", name, _STREAMS)
    if options:
        raise UserError(f"the stream {name!r} takes no options; found {sorted(options)}")
    return _STREAMS[name]()
