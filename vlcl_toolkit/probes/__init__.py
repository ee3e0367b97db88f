"""What a run records about its network after every task, and how it is read back."""

from vlcl_toolkit.probes.config import ProbeConfig
from vlcl_toolkit.probes.reader import Probes

__all__ = ["ProbeConfig", "Probes"]
