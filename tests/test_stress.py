"""The quick form of `make stress`: nothing passes without a word or ends in a traceback.

Kills are in test_training.py, two processes in one folder in test_checkpoint.py.
"""

import random

import pytest
from stress import damage, inputs, places
from stress.outcome import GOOD


def test_damages():
    outcome = damage.damage_runs(14, random.Random(1))
    assert set(outcome) <= {"named", "repaired", "identical"}
    assert outcome.total() == 14


def test_bad_inputs():
    outcome = inputs.bad_inputs(140, 1)
    assert set(outcome) <= set(GOOD)
    assert outcome["named"] > 50


@pytest.mark.parametrize("codes", [places.FULL, places.READ_ONLY])
def test_writes_that_fail(codes):
    assert places.failing_writes(2, random.Random(1), codes) == {"named": 2}
