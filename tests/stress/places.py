"""Disks that are full, folders that cannot be written, and two processes in one folder.

Simulated: from a random write, sync or rename on, all of them fail with ENOSPC, EROFS or EACCES.
Real, where user namespaces are allowed: a tmpfs that is too small, and one that is mounted read-only.
The error has to name the run's folder; once there is room, the same call ends in the identical run.

    python tests/stress/places.py COUNT SEED    the real ones; prints a JSON object of counts
"""

import builtins
import contextlib
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]

from stress.damage import METHODS, call
from stress.outcome import Outcome, differing, tried, worst

from vlcl_toolkit import files
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.training import folder as run_folder
from vlcl_toolkit.training.results import RunResult

FULL, READ_ONLY = (errno.ENOSPC,), (errno.EROFS, errno.EACCES)


def failing_writes(count: int, draw: random.Random, codes: tuple[int, ...]) -> Outcome:
    """Simulated: `count` runs whose writes fail from a random one on."""
    outcome: Outcome = Counter()
    with tempfile.TemporaryDirectory() as place:
        whole: dict[tuple[str, bool], tuple[Path, int]] = {}
        for _ in range(count):
            method, probes = draw.choice(METHODS), draw.random() < 0.5
            if (method, probes) not in whole:
                folder = Path(place, f"{method}-{probes}")
                with _faulty(None, 0) as writes:
                    call(method, folder, probes)
                whole[method, probes] = folder, writes[0]
            reference, writes_there = whole[method, probes]
            folder, first = Path(place, "run"), draw.randrange(writes_there)
            code = draw.choice(codes)

            def failing(code=code, first=first, m=method, p=probes, f=folder) -> None:
                with _faulty(code, first):
                    call(m, f, p)

            refused = tried(failing, str(folder))
            outcome[_gone_on(refused, method, folder, probes, reference)] += 1
            shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _gone_on(refused: str, method: str, folder: Path, probes: bool, reference: Path) -> str:
    # With room again.
    if refused == "done":  # nothing had failed
        refused = "silent"
    again = tried(lambda: call(method, folder, probes))
    if again == "named":  # it ought to go on
        again = "differs"
    if again == "done" and differing(folder, reference):
        again = "differs"
    return worst(refused, again)


@contextlib.contextmanager
def _faulty(code: int | None, first: int) -> Iterator[list[int]]:
    """Count writes, and let all from number `first` on fail with `code`."""
    writes = [0]

    def reach() -> None:
        writes[0] += 1
        if code is not None and writes[0] > first:
            raise OSError(code, os.strerror(code))

    class File:
        def __init__(self, file: Any):
            self.file = file

        def write(self, content: Any) -> int:
            reach()
            return self.file.write(content)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> "File":
            return self

        def __exit__(self, *exception: object) -> None:
            self.file.close()

    def opened(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode.startswith("r"):
            return builtins.open(path, mode, *args, **options)
        reach()
        return File(builtins.open(path, mode, *args, **options))

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def reached(*args: Any, **options: Any) -> Any:
            reach()
            return function(*args, **options)

        return reached

    kept = os.replace, os.fsync
    os.replace, os.fsync = map(before, kept)
    files.open = run_folder.open = opened  # type: ignore[attr-defined]
    try:
        yield writes
    finally:
        os.replace, os.fsync = kept
        del files.open, run_folder.open  # type: ignore[attr-defined]


# Real ones.


def real_places(count: int, seed: int) -> dict[str, Outcome] | None:
    """A full and a read-only tmpfs, in a namespace of its own; None where that is not allowed."""
    command = ["unshare", "--map-root-user", "--mount"]
    try:
        mounting = [*command, "mount", "-t", "tmpfs", "none", tempfile.gettempdir()]
        subprocess.run(mounting, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    command += [sys.executable, __file__, str(count), str(seed)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {kind: Counter(ends) for kind, ends in json.loads(found.splitlines()[-1]).items()}


def _in_mounts(count: int, draw: random.Random) -> dict[str, Outcome]:
    full: Outcome = Counter()
    locked: Outcome = Counter()
    with tempfile.TemporaryDirectory() as place:
        disk = Path(place, "disk")
        disk.mkdir()
        whole: dict[tuple[str, bool], tuple[Path, int]] = {}
        for number in range(count):
            method, probes = draw.choice(METHODS), draw.random() < 0.5
            if (method, probes) not in whole:
                reference = Path(place, f"{method}-{probes}")
                call(method, reference, probes)
                parts = [path.stat().st_size for path in reference.rglob("*") if path.is_file()]
                whole[method, probes] = reference, sum(parts)
            reference, size = whole[method, probes]
            folder = disk / "run"
            is_full = number % 2 == 0
            room = draw.randrange(4096, max(size * 3 // 4, 8192)) if is_full else 2**28
            _mount("tmpfs", f"size={room}", disk)
            if not is_full:
                stage = draw.choice(["new", "half way", "finished"])
                if stage != "new":
                    call(method, folder, probes, stop=stage == "half way")
                subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            refused = tried(lambda m=method, p=probes, f=folder: call(m, f, p), str(folder))
            if not is_full and stage == "finished":  # what is there can be read all the same
                refused = worst(refused, tried(lambda f=folder: RunResult.load(f)), "named")
            subprocess.run(["mount", "-o", "remount,rw,size=256m", disk], check=True)
            end = _gone_on(refused, method, folder, probes, reference)
            (full if is_full else locked)[end] += 1
            subprocess.run(["umount", disk], check=True)
    return {"full disk, tmpfs": full, "read-only, mount": locked}


def _mount(kind: str, options: str, place: Path) -> None:
    subprocess.run(["mount", "-t", kind, "-o", options, "none", place], check=True)


# Two processes.


def two_processes(count: int, draw: random.Random) -> Outcome:
    """Two calls of the same run at about the same time: one is refused, or reads what the first made."""
    outcome: Outcome = Counter()
    context = get_context("forkserver")
    context.set_forkserver_preload(["vlcl_toolkit.training.loop"])
    with tempfile.TemporaryDirectory() as place:
        reference = Path(place, "reference")
        call("finetune", reference, False)
        for number in range(count):
            folder, told = Path(place, f"run-{number}"), context.Queue()
            late = draw.random() / 4
            both = [
                context.Process(target=_contend, args=(folder, wait, told)) for wait in (0.0, late)
            ]
            for process in both:
                process.start()
            for process in both:
                process.join(120)
            if any(process.is_alive() for process in both):
                for process in both:
                    process.kill()
                outcome["hang"] += 1
                continue
            ends = sorted(told.get() for _ in both)
            if ends not in (["done", "done"], ["done", "refused"]):
                print(f"two processes: {ends}", file=sys.stderr)
                outcome["traceback"] += 1
            elif differing(folder, reference):
                outcome["differs"] += 1
            else:
                outcome["named" if "refused" in ends else "identical"] += 1
    return outcome


def _contend(folder: Path, wait: float, told: Any) -> None:
    import torch

    torch.set_num_threads(1)
    time.sleep(wait)
    try:
        call("finetune", folder, False)
    except UserError as error:
        right = "another run is writing to" in str(error) and str(folder) in str(error)
        told.put("refused" if right else f"misnamed: {error}")
    except BaseException as error:
        told.put(repr(error))
        raise
    else:
        told.put("done")


if __name__ == "__main__":
    number, chosen = map(int, sys.argv[1:])
    print(json.dumps(_in_mounts(number, random.Random(chosen))))
