"""`make stress`: kills, damaged files, bad input, full disks and more; how each try ended.

    python tests/stress [--kills 64] [--damages 600] [--inputs 600] [--places 32] [--seed 0]

Each part says in its own file what is tried: kills.py, damage.py, inputs.py, places.py. What the columns
mean stands below the table. Exit code 1 if a try ended in one of the last five; 0 tries leave a part out.
"""

import random
import sys
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from stress.damage import damage_runs
from stress.inputs import bad_inputs
from stress.kills import kill_runs
from stress.outcome import BAD, GOOD, Outcome
from stress.places import FULL, READ_ONLY, failing_writes, real_places, two_processes

Tries = Annotated[int, tyro.conf.arg(metavar="N")]


def main(
    kills: Tries = 64, damages: Tries = 600, inputs: Tries = 600, places: Tries = 32, seed: int = 0
) -> int:
    """Try all; a table of how often each ended how. Exit code 1 if something went unnoticed or broke.

    Args:
        kills: SIGKILLs. damages: damaged files. inputs: bad input.
        places: full disks, and as many read-only folders; a quarter as many pairs of processes.
        seed: of all that is drawn.
    """
    torch.set_num_threads(1)
    found: dict[str, Outcome] = {}
    if kills:
        found["kills"] = kill_runs(kills, random.Random(seed))
    if damages:
        found["damaged files"] = damage_runs(damages, random.Random(seed))
    if inputs:
        found["bad input"] = bad_inputs(inputs, seed)
    if places:
        draw = random.Random(seed)
        found["full disk, simulated"] = failing_writes(places, draw, FULL)
        found["read-only, simulated"] = failing_writes(places, draw, READ_ONLY)
        found["two processes"] = two_processes(max(places // 4, 1), draw)
        real = real_places(places, seed)
        if real is None:
            print("full disk and read-only: no namespace with mounts here, simulated ones alone")
        found |= real or {}
    return report(found)


def report(found: dict[str, Outcome]) -> int:
    """Print the table; the exit code."""
    columns = [*GOOD, *BAD]
    table = Table("", "tried")
    for column in columns:
        table.add_column(column, justify="right")
    for name, outcome in found.items():
        table.add_row(name, str(outcome.total()), *(str(outcome[column]) for column in columns))
    console = Console(width=max(Console().width, 130))
    console.print(table)
    for name, meaning in (GOOD | BAD).items():
        console.print(f"{name}: {meaning}")
    return int(any(outcome[kind] for outcome in found.values() for kind in BAD))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
