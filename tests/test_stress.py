"""The quick form of `make stress`: nothing passes without a word, and nothing ends in a traceback."""

import random
from multiprocessing import get_all_start_methods

import pytest
from stress import __main__ as stress


@pytest.mark.slow
@pytest.mark.skipif("forkserver" not in get_all_start_methods(), reason="no forkserver here")
def test_kills():
    outcome = stress.kill_runs(3, random.Random(1))
    assert outcome == {"identical": 3}


def test_damages():
    outcome = stress.damage_runs(40, random.Random(1))
    assert set(outcome) <= {"named", "repaired"}
    assert outcome.total() == 40


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_bad_inputs():
    assert stress.bad_inputs(200, random.Random(1)) == {"named": 200}
