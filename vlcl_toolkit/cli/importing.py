"""`vlcl import`: official checkpoints in our own form, and what is in them."""

import re
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import Tensor

from vlcl_toolkit.cli.tables import COMPACT
from vlcl_toolkit.methods.official_checkpoints import Imported


def print_import(imported: Imported, folder: Path) -> None:
    """One line for all tensors whose names differ in numbers alone and whose shapes are the same."""
    table = Table(title=f"{imported.method} of {imported.source}", **COMPACT)
    for title in ("tensors", "name", "shape", "type"):
        table.add_column(title, justify="right" if title == "tensors" else "left", overflow="fold")
    for (name, shape, dtype), count in shapes(imported.state).items():
        table.add_row(str(count), name, shape, dtype)
    console = Console()
    console.print(table)
    tasks = "" if imported.tasks is None else f"; tasks learned: {imported.tasks}"
    console.print(f"backbone {imported.backbone} {imported.backbone_sha256[:12]}{tasks}")
    settings = ", ".join(f"{name}={value}" for name, value in imported.settings.items())
    console.print(f"settings: {settings or 'the defaults'}", soft_wrap=True)
    console.print(f"folder: {folder}", soft_wrap=True)


def shapes(state: dict[str, Tensor]) -> dict[tuple[str, str, str], int]:
    """How many tensors there are of each name (numbers as `*`), shape and type."""
    counts: dict[tuple[str, str, str], int] = {}
    for name, value in state.items():
        shape = " x ".join(map(str, value.shape)) or "one number"
        key = (re.sub(r"\b\d+\b", "*", name), shape, str(value.dtype).removeprefix("torch."))
        counts[key] = counts.get(key, 0) + 1
    return counts
