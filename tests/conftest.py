"""Shared fixtures."""

import os

import pytest
import torch
from tiny import SETTINGS, tiny_clip, tiny_stream

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.streams import TaskStream

# Tiny models gain nothing from threads, and rounding depends on their number, here and in the
# processes that tests start.
torch.set_num_threads(1)
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


# Take longest, so they start first: no worker is left alone with one of them at the end.
LONG = ("notebooks/", "tests/browser/", "tests/test_several_processes.py", "tests/test_training.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.fixture
def clip() -> Clip:
    """A tiny random CLIP of the test's own."""
    return tiny_clip()


@pytest.fixture
def stream() -> TaskStream:
    """A stream of two tiny tasks and a held-out one."""
    return tiny_stream()


@pytest.fixture
def settings() -> dict[str, object]:
    """Settings of fine-tuning that finish in moments: 7 steps per task."""
    return dict(SETTINGS)
