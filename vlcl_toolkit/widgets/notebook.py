"""Change to the project folder, so that `runs/` is shared with the command line."""

import os
from pathlib import Path


def enter_project() -> Path:
    """Change to the project folder, and return it.

    It is the closest folder upwards that holds a `pyproject.toml`; without one the working folder
    stays. The environment variable VLCL_PROJECT names another.
    """
    here = Path.cwd()
    holders = [path for path in (here, *here.parents) if (path / "pyproject.toml").is_file()]
    folder = Path(os.environ.get("VLCL_PROJECT") or (holders[0] if holders else here))
    os.chdir(folder)
    return folder
