"""How a run computes: on how many devices, in which portions. It does not belong to what a run is, so
that another choice goes on with the same run; the numbers then differ by rounding alone."""

from dataclasses import dataclass
from typing import Literal

from vlcl_toolkit.errors import UserError


@dataclass(frozen=True)
class Execution:
    """Settings of speed and memory; see docs/multi_gpu.md.

    Raises:
        UserError: a number out of range.
    """

    devices: int | None = None
    """Devices (processes) that share each batch; torchrun starts them. None: as many as it started."""
    accumulate: int = 1
    """Portions that a device takes its part of a batch in: less memory, one more forward pass, the same gradient."""
    workers: int = 0
    """ProcessGroup that load the images of the next steps, and threads that decode test images; 0: none."""
    compile: bool = False
    """Compile both towers (torch.compile): minutes at the start, faster steps."""
    attention: Literal["auto", "math", "flash", "efficient"] = "auto"
    """Which of torch's attention kernels may be used beside the plain one (math); auto: any."""
    determinism: Literal["off", "warn", "strict"] = "warn"
    """On a GPU: off (fastest), warn (repeatable operations where there are any), strict (else an error)."""
    log_every: int | None = None
    """Steps between two looks at the losses, each of which waits for the device; None: 1 on a CPU, 20 elsewhere."""

    def __post_init__(self) -> None:
        for name, least in (("devices", 1), ("accumulate", 1), ("workers", 0), ("log_every", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} must be at least {least}; found {value}; raise it")


ONE_DEVICE = Execution()
