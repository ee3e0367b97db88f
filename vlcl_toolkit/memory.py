"""The most memory that a run needed at once."""

import os
import resource
import sys
from pathlib import Path

import torch

_FORGET = Path("/proc/self/clear_refs")
_PEAK = "VmHWM:"  # high-water mark of the resident set, in KiB


def forget_peak_memory(device: torch.device) -> None:
    """Start measuring anew, so that runs in one process do not inherit each other's peak (CUDA and Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access(_FORGET, os.W_OK):  # not in every container
        _FORGET.write_text("5", encoding="ascii")


def peak_memory_mib(device: torch.device) -> float:
    """MiB since `forget_peak_memory`: of the GPU, or of the whole process (elsewhere than on Linux since its start)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(_PEAK)) / 2**10
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
