"""The peak of a run is its own."""

import subprocess
import sys

# In a process of its own: the memory of this one also shrinks, when what earlier tests left is collected.
MEASURE = """
import os
import torch
from vlcl_toolkit.training.backends import _RESET, reset_peak_memory, peak_memory_mib

cpu = torch.device("cpu")
reset_peak_memory(cpu)
before = peak_memory_mib(cpu)
large = torch.ones(60 * 2**18)  # 60 MiB
assert peak_memory_mib(cpu) > before + 50
del large
assert peak_memory_mib(cpu) > before + 50
reset_peak_memory(cpu)
assert (peak_memory_mib(cpu) < before + 30) == os.access(_RESET, os.W_OK)
"""


def test_a_peak_is_remembered_until_it_is_forgotten():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
