"""Threads that decode images for tests and frozen features, where nothing is drawn at random."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import lru_cache
from typing import TypeVar

from torch.utils.data import get_worker_info

_threads: ContextVar[int] = ContextVar("threads", default=0)
Item = TypeVar("Item")
Result = TypeVar("Result")


@contextlib.contextmanager
def decoding_threads(count: int) -> Iterator[None]:
    """Context in which `in_threads` uses `count` threads; fewer than 2: none."""
    token = _threads.set(count)
    try:
        yield
    finally:
        _threads.reset(token)


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work` of every item, in order. Decoders run without the interpreter's lock."""
    count = _threads.get()
    # Threads do not survive the fork that makes a loading process.
    if count < 2 or get_worker_info() is not None:
        return [work(item) for item in items]
    return list(_pool(count).map(work, items))


@lru_cache(maxsize=1)
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)
