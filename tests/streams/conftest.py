"""Replicas that the tests of this folder share; nothing may change them."""

from pathlib import Path

import pytest

from streams import replicas
from vlcl_toolkit.streams.splits import facts


@pytest.fixture(scope="session")
def mtil_root(tmp_path_factory) -> Path:
    """A data folder with all eleven data sets and CoOp's split files."""
    return replicas.make_mtil(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def imagenet_root(tmp_path_factory) -> Path:
    """A data folder with Tiny-ImageNet and a full set of ImageNet's 1000 class folders."""
    root, known = tmp_path_factory.mktemp("imagenet"), facts("class_incremental")
    replicas.make_tiny_imagenet(root, known["tinyimagenet_wnids"])
    others = [f"n{2000000 + i:08}" for i in range(900)]  # sorted after the first hundred
    replicas.make_imagenet(root, known["imagenet100_wnids"] + others)
    return root
