"""A random file of a run folder is changed at a random place; then all that reads it is called.

The runs are finished or half way, with and without probes; every file of theirs has its turn,
checkpoints included. Reading and going on each have to name the file, or give what an undisturbed run
gives: saying what was wrong ("repaired"), or because nothing needs the file ("identical").
"""

import contextlib
import io
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from small_methods import REFERENCE, SMALL
from stress.outcome import Outcome, damaged, differing, tried, worst
from tiny import tiny_clip, tiny_stream

from vlcl_toolkit.training.events import StepEvent, StopRun
from vlcl_toolkit.training.loop import run
from vlcl_toolkit.training.results import RunResult

METHODS = ("finetune", "diki")


def damage_runs(count: int, draw: random.Random) -> Outcome:
    """Try `count` damages."""
    outcome: Outcome = Counter()
    with tempfile.TemporaryDirectory() as place:
        bases: dict[tuple[str, bool, bool], Path] = {}
        for _ in range(count):
            method, probes, half = draw.choice(METHODS), draw.random() < 0.5, draw.random() < 0.5
            whole, base = (_base(bases, Path(place), method, probes, h) for h in (False, half))
            found = [path.relative_to(base) for path in sorted(base.rglob("*")) if path.is_file()]
            by_place = {
                path.parent: [p for p in found if p.parent == path.parent] for path in found
            }
            files = draw.choice(list(by_place.values()))  # every place as often, however full it is
            name = draw.choice([path for path in files if path.name != ".lock"])
            folder = Path(place, "damaged")
            shutil.copytree(base, folder)
            harm = _harm(folder / name, base, found, draw)
            end = _used(folder, name, base, whole, method, probes)
            if end not in ("identical", "repaired", "named"):
                state = "half way" if half else "finished"
                print(f"{end}: {method}, {state}, {name}, {harm}", file=sys.stderr)
            outcome[end] += 1
            shutil.rmtree(folder)
    return outcome


def _base(
    bases: dict[tuple[str, bool, bool], Path], place: Path, method: str, probes: bool, half: bool
) -> Path:
    key = method, probes, half
    if key not in bases:
        bases[key] = place / f"{method}-{probes}-{half}"
        call(method, bases[key], probes, stop=half)
    return bases[key]


def call(method: str, folder: Path, probes: bool, *, stop: bool = False) -> RunResult:
    """A tiny run, up to the middle of its second task or to the end."""

    def half_way(event: object) -> None:
        if stop and isinstance(event, StepEvent) and (event.task_index, event.step) == (1, 2):
            raise StopRun

    stream, clip = _material()
    options = {"config": SMALL[method], "probes": probes, "progress": False}
    return run(method, stream, clip, out=folder, callback=half_way, **options)


@lru_cache(maxsize=1)  # a run leaves both as they were
def _material():
    return replace(tiny_stream(), reference=lambda: REFERENCE), tiny_clip()


def _harm(path: Path, base: Path, found: list[Path], draw: random.Random) -> str:
    content, kind = path.read_bytes(), draw.choice(["bytes"] * 6 + ["folder", "lost", "other"])
    if kind == "bytes":
        changed = damaged(content, draw)
        while changed == content:  # zeros upon zeros, say
            changed = damaged(content, draw)
        path.write_bytes(changed)
    elif kind == "other":
        path.write_bytes(
            (base / draw.choice([p for p in found if p.name != path.name])).read_bytes()
        )
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
    return kind


def _used(folder: Path, name: Path, base: Path, whole: Path, method: str, probes: bool) -> str:
    # A lost file can be told by its folder's name; of a folder of checkpoints all may be told.
    names, said = (
        (name.name, str(name.parent) if name.parent != Path(".") else name.name),
        io.StringIO(),
    )
    same: dict[str, bool] = {}

    def read() -> None:
        same["read"] = _facts(folder, probes) == _facts(base, probes)

    def go_on() -> None:
        call(method, folder, probes)
        same["result"] = not differing(folder, whole) and _facts(folder, probes) == _facts(
            whole, probes
        )

    with contextlib.redirect_stdout(said), warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        reading, going = tried(read, *names), tried(go_on, *names)
    if not same.get("read", True):
        reading = "silent"
    if not same.get("result", True):
        going = "differs"
    told = said.getvalue() + "".join(str(warning.message) for warning in given)
    if going == "done":
        going = "repaired" if any(part in told for part in names) else "identical"
    return worst(reading, going)


def _facts(folder: Path, probes: bool) -> str:
    """All that a run's folder says of its result."""
    result = RunResult.load(folder)
    facts = [result.config, result.accuracy.to_csv(), result.held_out.to_csv(), result.metrics]
    facts += [result.history.to_csv(), result.validation.to_csv(), result.complete, result.order]
    if probes:
        for stage in result.probes.stages:
            names = result.probes.names(stage)
            arrays = [np.asarray(result.probes.array(stage, name)).tobytes() for name in names]
            facts.append([stage, names, arrays])
    return repr(facts)
