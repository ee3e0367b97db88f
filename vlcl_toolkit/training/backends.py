"""Attention kernels, compilation, determinism, peak memory, and advice when memory runs out."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlcl_toolkit.errors import UserError

COMPILER = "inductor"
_ATTENTION = {  # the plain one serves where a mask or a precision forbids the others
    "math": [SDPBackend.MATH],
    "flash": [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH],
    "efficient": [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
}


def attention(choice: str) -> contextlib.AbstractContextManager:
    """Context in which torch takes the chosen kernel; "auto": any."""
    return contextlib.nullcontext() if choice == "auto" else sdpa_kernel(_ATTENTION[choice])


@contextlib.contextmanager
def compiled(model: CLIP) -> Iterator[None]:
    """Context in which both towers are compiled as they are now."""
    towers: tuple[Any, ...] = (model.visual, model.transformer)
    for tower in towers:
        tower.compile(backend=COMPILER)
    try:
        yield
    finally:
        for tower in towers:
            tower._compiled_call_impl = None
        torch.compiler.reset()


@contextlib.contextmanager
def memory_advice(device: torch.device) -> Iterator[None]:
    """Context that turns running out of memory into one line that says what to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        short = str(error).splitlines()[0] if str(error) else "no details"
        message = (
            f"{device} ran out of memory ({short}); raise --accumulate, choose --precision bf16, or "
            "lower batch_size (--set batch_size=...) or eval_batch_size"
        )
        raise UserError(message, of_one_process=True) from error


@contextlib.contextmanager
def deterministic(device: torch.device, mode: str) -> Iterator[None]:
    """Context in which a GPU is deterministic; `mode` as in `Execution.determinism`."""
    # The CPU kernels in use are deterministic already; on CUDA, scatter-adds are not by default.
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill: Any = torch.utils.deterministic
    filled = fill.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only then
    torch.use_deterministic_algorithms(mode != "off", warn_only=mode == "warn")
    fill.fill_uninitialized_memory = False  # costs a pass over every new tensor
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        fill.fill_uninitialized_memory = filled


_RESET = Path("/proc/self/clear_refs")
_PEAK = "VmHWM:"  # high-water mark of the resident set, in KiB


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring from now, so that runs in one process do not inherit each other's peak (CUDA and Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access(_RESET, os.W_OK):  # not in every container
        _RESET.write_text("5", encoding="ascii")


def peak_memory_mib(device: torch.device) -> float:
    """MiB since `reset_peak_memory`: of the GPU, or of the whole process (elsewhere than on Linux since its start)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(_PEAK)) / 2**10
    import resource  # Unix alone has it

    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
