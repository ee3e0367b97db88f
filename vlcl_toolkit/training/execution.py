"""How a run computes: on how many devices, in how many micro-batches. This is not part of a run's identity:
another choice continues the same run; its numbers then differ by rounding alone."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vlcl_toolkit.settings import Count, Few, FewOrZero, Settings, Size


@dataclass(frozen=True)
class Execution(Settings):
    """Settings of speed and memory; see docs/multi_gpu.md.

    Raises:
        UserError: a number out of range.
    """

    devices: Few | None = None
    """Devices (one process each) that share every batch; torchrun starts the processes. None: as many as it started."""
    accumulate: Size = 1
    """Micro-batches per device batch: less activation memory, one extra forward pass, same gradient."""
    workers: FewOrZero = 0
    """Processes that load the images of the next steps, and threads that decode test images; 0: none."""
    compile: bool = False
    """Compile both towers (torch.compile): minutes at the start, faster steps."""
    attention: Literal["auto", "math", "flash", "efficient"] = "auto"
    """Which of torch's attention kernels may be used besides the plain one (math); auto: any."""
    determinism: Literal["off", "warn", "strict"] = "warn"
    """On a GPU: off (fastest), warn (deterministic operations where they exist), strict (an error elsewhere)."""
    log_every: Count | None = None
    """Steps between two fetches of the losses, each of which waits for the device; None: 1 on a CPU, 20 elsewhere."""
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 5.0
    """Minutes between two checkpoints, 0: after every step; one more after each task."""


ONE_DEVICE = Execution()
