"""Each notebook is executed in a project folder of its own: no results of earlier runs, no locks."""

import os
import tempfile

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Name a fresh folder in the environment that the notebook's kernel inherits."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VLCL_PROJECT"] = folder
        try:
            return (yield)
        finally:
            del os.environ["VLCL_PROJECT"]
