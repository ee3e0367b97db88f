"""Imitations that the tests of this folder share; nothing may change them."""

from pathlib import Path

import pytest
from imitation_data.write import MTIL, write_imitations


@pytest.fixture(scope="session")
def mtil_root(tmp_path_factory) -> Path:
    """A data folder with all eleven data sets and CoOp's split files."""
    return write_imitations(tmp_path_factory.mktemp("data"), list(MTIL))


@pytest.fixture(scope="session")
def imagenet_root(tmp_path_factory) -> Path:
    """A data folder with Tiny-ImageNet and a full set of ImageNet's 1000 class folders."""
    return write_imitations(tmp_path_factory.mktemp("imagenet"), ["TinyImageNet", "ImageNet"])
