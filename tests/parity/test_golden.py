"""Runs each golden case through the runner of its kind.

The runners live in the `run_*.py` files beside this one and drive the classes and functions that
users run. A kind without a runner is a failure.
"""

import importlib
from pathlib import Path

from parity.loading import RUNNERS, Case

for file in sorted(Path(__file__).parent.glob("run_*.py")):
    importlib.import_module(f"parity.{file.stem}")


def test_case(case: Case):
    """Same inputs, same numbers."""
    assert case.kind in RUNNERS, f"no runner for kind {case.kind!r} of {case.path}"
    RUNNERS[case.kind](case)
