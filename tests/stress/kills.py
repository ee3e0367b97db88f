"""SIGKILL at random moments of runs of all methods, with and without probes; then the same call goes on.

A moment is an event of the run, or either side of a rename. `accuracy.csv`, `history.jsonl` and
`probes/*` have to be those of a run that was not killed, byte for byte. The methods take turns.
"""

import random
import signal
import sys
import tempfile
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from small_methods import SMALL
from stress.killed import run_method
from stress.outcome import HANG, Outcome, differing


def kill_runs(count: int, draw: random.Random) -> Outcome:
    """Kill `count` runs, and go on with each."""
    outcome: Outcome = Counter()
    context = get_context("forkserver")
    context.set_forkserver_preload(["vlcl_toolkit.training.loop", "vlcl_toolkit.probes"])
    whole: dict[tuple[str, bool], tuple[Path, int]] = {}
    with tempfile.TemporaryDirectory() as place:
        for number in range(count):
            method, probes = list(SMALL)[number % len(SMALL)], draw.random() < 0.5

            def call(folder: Path, moment: int | None, moments: Any = None) -> int | None:
                arguments = (method, folder, moment, moments, probes)  # noqa: B023 (called at once)
                return finished(context.Process(target=run_method, args=arguments))

            if (method, probes) not in whole:
                folder, moments = Path(place, f"{method}-{probes}"), context.Value("i", 0)
                call(folder, None, moments)
                whole[method, probes] = folder, moments.value
            reference, there = whole[method, probes]
            folder, moment = Path(place, f"killed-{number}"), draw.randrange(max(there, 1))
            died, again = call(folder, moment), call(folder, None)
            if died is None or again is None:
                outcome["hang"] += 1
            elif died not in (-signal.SIGKILL, 0) or again != 0:
                outcome["traceback"] += 1
            else:
                other = differing(folder, reference)
                if other:
                    print(f"differs: {method}, moment {moment}: {other}", file=sys.stderr)
                outcome["differs" if other else "identical"] += 1
    return outcome


def finished(process: Any) -> int | None:
    """Exit code of a process that is started here; None: it hung."""
    process.start()
    process.join(HANG)
    if process.is_alive():
        process.kill()
        return None
    return process.exitcode
