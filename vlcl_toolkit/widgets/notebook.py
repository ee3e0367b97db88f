"""Where a notebook works: the project's folder, so that `runs/` is the one of the command line."""

import os
from pathlib import Path


def enter_project() -> Path:
    """Make the project's folder the working folder, and return it.

    It is the closest folder upwards that holds a `pyproject.toml`; without one the working folder
    stays. The environment variable VLCL_PROJECT names another.
    """
    here = Path.cwd()
    holders = [path for path in (here, *here.parents) if (path / "pyproject.toml").is_file()]
    folder = Path(os.environ.get("VLCL_PROJECT") or (holders[0] if holders else here))
    os.chdir(folder)
    return folder
