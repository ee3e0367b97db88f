"""`make stress`: kills at random moments, damaged files, bad input; how each ended.

    python tests/stress [--kills 64] [--damages 600] [--inputs 600] [--seed 0]

Kills: SIGKILL at a random event or rename of a run of every method; the same call then goes on.
    identical: accuracy.csv and history.jsonl equal those of a run that was not killed, byte for byte.
Damages: a random file of a finished run is changed at a random place; then all that reads it is called.
    named: the error names the file. repaired: the file is again as it was.
Inputs: settings, orders, images and weights files that nothing can be meant by.
    named: refused in one line.
silent (accepted without a word), traceback and hang have to be 0; the exit code says so.
"""

import math
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from small_methods import SMALL
from stress.killed import run_method
from tiny import tiny_clip, tiny_stream

from vlcl_toolkit.clip.weights import read_state
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_config
from vlcl_toolkit.methods.registry import config_class
from vlcl_toolkit.streams.pictures import IMAGE_SUFFIXES, FilePictures
from vlcl_toolkit.training.loop import run
from vlcl_toolkit.training.results import RunResult

HANG = 120  # seconds
Outcome = Counter[str]
Tries = Annotated[int, tyro.conf.arg(metavar="N")]


def main(kills: Tries = 64, damages: Tries = 600, inputs: Tries = 600, seed: int = 0) -> int:
    """Try all three; a table of how often each ended how. Exit code 1 if something went unnoticed or broke."""
    draw = random.Random(seed)
    found = {
        "kills": kill_runs(kills, draw),
        "damaged files": damage_runs(damages, draw),
        "bad input": bad_inputs(inputs, draw),
    }
    columns = ("identical", "repaired", "named", "differs", "silent", "traceback", "hang")
    table = Table("tried", *columns, title="")
    table.columns[0].header = ""
    table.add_column("all", justify="right")
    for name, outcome in found.items():
        cells = [str(outcome[column]) for column in columns]
        table.add_row(name, *cells, str(outcome.total()))
    Console().print(table)
    bad = sum(outcome[kind] for outcome in found.values() for kind in columns[3:])
    return int(bad > 0)


# Kills.


def kill_runs(count: int, draw: random.Random) -> Outcome:
    """SIGKILL in the middle of runs of all methods in turn."""
    outcome: Outcome = Counter()
    context = get_context("forkserver")
    context.set_forkserver_preload(["vlcl_toolkit.training.loop"])
    whole: dict[str, tuple[Path, int]] = {}
    with tempfile.TemporaryDirectory() as place:
        for number in range(count):
            method = list(SMALL)[number % len(SMALL)]
            if method not in whole:
                folder, moments = Path(place, method), context.Value("i", 0)
                _finish(context.Process(target=run_method, args=(method, folder, None, moments)))
                whole[method] = folder, moments.value
            reference, moments_of = whole[method]
            folder, moment = Path(place, f"killed-{number}"), draw.randrange(max(moments_of, 1))
            died = _finish(context.Process(target=run_method, args=(method, folder, moment, None)))
            again = _finish(context.Process(target=run_method, args=(method, folder, None, None)))
            if died is None or again is None:
                outcome["hang"] += 1
            elif died not in (-signal.SIGKILL, 0) or again != 0:
                outcome["traceback"] += 1
            else:
                names = ("accuracy.csv", "history.jsonl")
                files = [(folder / n, reference / n) for n in names]
                other = [
                    ours.name for ours, theirs in files if ours.read_bytes() != theirs.read_bytes()
                ]
                if other:
                    print(f"differs: {method}, moment {moment}: {other}", file=sys.stderr)
                outcome["differs" if other else "identical"] += 1
    return outcome


def _finish(process) -> int | None:
    process.start()
    process.join(HANG)
    if process.is_alive():
        process.kill()
        return None
    return process.exitcode


# Damages.


def damage_runs(count: int, draw: random.Random) -> Outcome:
    """Change files of a finished run with probes, and read all of it."""
    outcome: Outcome = Counter()
    with tempfile.TemporaryDirectory() as place:
        call = {"config": SMALL["finetune"], "probes": True, "progress": False}
        first = run("finetune", tiny_stream(), tiny_clip(), out=Path(place, "run"), **call).folder
        names = ["config.json", "result.json", "history.jsonl", "accuracy.csv"]
        names += [f"probes/step_{stage:02d}.npz" for stage in range(3)]
        for _ in range(count):
            folder, name = Path(place, "damaged"), draw.choice(names)
            shutil.copytree(first, folder)
            original = (folder / name).read_bytes()
            _damage(folder / name, original, draw)

            def use(folder: Path = folder) -> None:
                result = RunResult.load(folder)
                for stage in result.probes.stages:
                    result.probes.logits(stage, "pets")
                run("finetune", tiny_stream(), tiny_clip(), out=folder, **call)

            ended = _try(use)
            if ended == "silent":
                path = folder / name
                whole = path.is_file() and path.read_bytes() == original
                ended = "repaired" if whole else "silent"
            outcome[ended] += 1
            shutil.rmtree(folder)
    return outcome


def _damage(path: Path, content: bytes, draw: random.Random) -> None:
    kind = draw.choice(["flip", "cut", "append", "empty", "foreign", "object", "folder", "lost"])
    place = draw.randrange(len(content))
    if kind in ("folder", "lost"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        return
    flipped = content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))])
    changed = {
        "flip": flipped + content[place + 1 :],
        "cut": content[:place],
        "append": content + draw.randbytes(draw.randrange(1, 50)),
        "empty": b"",
        "foreign": draw.randbytes(len(content)),
        "object": b"{}",
    }
    path.write_bytes(changed[kind])


# Bad input.


def bad_inputs(count: int, draw: random.Random) -> Outcome:
    """Values that no training can mean, orders, images and weights that are none."""
    outcome: Outcome = Counter()
    with tempfile.TemporaryDirectory() as place:
        kinds: list[Iterator[Callable[[], object]]] = [
            _settings(draw),
            _settings(draw),
            _orders(draw),
            _files(Path(place), draw),
        ]
        for number in range(count):
            outcome[_try(next(kinds[number % len(kinds)]))] += 1
    return outcome


_NONSENSE = (
    math.nan,
    math.inf,
    -math.inf,
    -1,
    -1e-9,
    -(10**12),
    "x",
    "1e-3",
    [1, 2],
    object(),
    1e300,
)


def _settings(draw: random.Random) -> Iterator[Callable[[], object]]:
    all_fields = [(name, field) for name in SMALL for field in fields(config_class(name))]
    known = [(name, field.name) for name, field in all_fields]
    words = {(name, field.name) for name, field in all_fields if "str" in str(field.type)}
    while True:
        method, setting = draw.choice(known)
        if draw.random() < 0.1:  # a name that there is not
            setting = setting + draw.choice("xyz")
        value = draw.choice(_NONSENSE)
        if isinstance(value, str) and (method, setting) in words:
            continue  # a file's name, say
        yield lambda m=method, s=setting, v=value: make_config(m, {s: v})


def _orders(draw: random.Random) -> Iterator[Callable[[], object]]:
    stream = tiny_stream()
    parts = [*stream.names, "0", "1", "2", "-3", "", "pet", "reversed", "ä", "1.5"]
    while True:
        order = ",".join(draw.choice(parts) for _ in range(draw.randrange(1, 4)))
        keys = [key.strip() for key in order.split(",")]
        places = [list(stream.names).index(k) if k in stream.names else k for k in keys]
        if sorted(map(str, places)) == ["0", "1"] or order == "reversed":
            continue  # that is an order
        yield lambda o=order: stream.reorder(o)


def _files(place: Path, draw: random.Random) -> Iterator[Callable[[], object]]:
    for number in range(10**9):
        content = draw.choice(_HEADS) + draw.randbytes(draw.randrange(0, 4000))
        if draw.random() < 0.5:
            path = place / f"{number}{draw.choice(sorted(IMAGE_SUFFIXES))}"
            path.write_bytes(content)
            yield lambda p=path: FilePictures(p.parent, [p.name])[0]
        else:
            path = place / f"{number}{draw.choice(['.pt', '.pth', '.safetensors', '.bin'])}"
            path.write_bytes(content)
            yield lambda p=path: read_state(p)


_HEADS = (
    *(b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\x00", b"BM", b"RIFF"),
    *(b"PK\x03\x04", b"\x80\x02", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"),
)


def _try(work: Callable[[], object]) -> str:
    def over(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, over)
    signal.alarm(HANG)
    try:
        found = work()
    except UserError as error:
        return "named" if "\n" not in str(error) else "traceback"
    except TimeoutError:
        return "hang"
    except Exception as error:  # noqa: BLE001 (whatever it is, it is counted)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return "traceback"
    finally:
        signal.alarm(0)
    if found is not None:
        print(f"accepted: {found!r:.300}", file=sys.stderr)
    return "silent"


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
