"""What happened in a run: pure functions from results to data frames."""

from vlcl_toolkit.analysis.comparison import gains
from vlcl_toolkit.analysis.zero_shot import chance, forgotten_tasks, forgotten_zero_shot

__all__ = ["chance", "forgotten_tasks", "forgotten_zero_shot", "gains"]
