"""The peak of a run is its own."""

import os

import torch

from vlcl_toolkit.memory import _FORGET, forget_peak_memory, peak_memory_mib

CPU = torch.device("cpu")


def test_a_peak_is_remembered_until_it_is_forgotten():
    forget_peak_memory(CPU)
    before = peak_memory_mib(CPU)
    large = torch.ones(60 * 2**18)  # 60 MiB
    assert peak_memory_mib(CPU) > before + 50
    del large
    assert peak_memory_mib(CPU) > before + 50
    forget_peak_memory(CPU)
    assert (peak_memory_mib(CPU) < before + 30) == os.access(_FORGET, os.W_OK)
