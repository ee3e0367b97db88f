"""Probes: what a run records about its model after every task, and how to read it back."""

from vlcl_toolkit.probes.config import ProbeConfig
from vlcl_toolkit.probes.reader import Probes

__all__ = ["ProbeConfig", "Probes"]
