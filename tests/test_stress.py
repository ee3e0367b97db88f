"""The quick form of `make stress`: nothing passes without a word or ends in a traceback. (Kills: test_training.py.)"""

import random

import pytest
from stress import __main__ as stress


def test_damages():
    outcome = stress.damage_runs(40, random.Random(1))
    assert set(outcome) <= {"named", "repaired"}
    assert outcome.total() == 40


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_bad_inputs():
    assert stress.bad_inputs(200, random.Random(1)) == {"named": 200}
