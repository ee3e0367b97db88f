"""How a try ended, and whether two run folders hold the same run."""

import random
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from vlcl_toolkit.errors import UserError

HANG = 120  # seconds
Outcome = Counter[str]

GOOD = {
    "identical": "the result is that of an undisturbed run",
    "repaired": "the same, and the output said what was wrong",
    "accepted": "valid after all: it was taken as it is",
    "named": "refused in one line that names it",
}
BAD = {
    "misnamed": "refused in one line that names something else",
    "differs": "the result is another one",
    "silent": "taken without a word although it is wrong",
    "traceback": "any other exception",
    "hang": f"more than {HANG} s",
}


def tried(work: Callable[[], object], *names: str) -> str:
    """Do it; "done", or how it failed.

    Args:
        names: an error has to hold one of them; none: any error will do.
    """

    def over(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, over)
    signal.alarm(HANG)
    try:
        work()
    except UserError as error:
        text = str(error)
        if "\n" in text or not text:
            print(f"not one line: {text!r}", file=sys.stderr)
            return "traceback"
        if names and not any(name in text for name in names):
            print(f"misnamed, {' or '.join(names)}: {text}", file=sys.stderr)
            return "misnamed"
        return "named"
    except TimeoutError:
        return "hang"
    except Exception:  # noqa: BLE001 (whatever it is, it is counted)
        traceback.print_exc(limit=-4)
        return "traceback"
    finally:
        signal.alarm(0)
    return "done"


def worst(*ends: str) -> str:
    """The end that counts: a bad one, else "named", else the last."""
    for kind in (*BAD, "named"):
        if kind in ends:
            return kind
    return ends[-1]


def differing(folder: Path, reference: Path) -> list[str]:
    """Files of a finished run that are not those of the other, byte for byte."""
    probes = sorted(path.relative_to(reference) for path in reference.glob("probes/*"))
    names = [Path("accuracy.csv"), Path("history.jsonl"), *probes]

    def content(path: Path) -> bytes | None:
        return path.read_bytes() if path.is_file() else None

    return [str(name) for name in names if content(folder / name) != content(reference / name)]


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The same with something wrong at a random place."""
    kind = draw.choice(["flip", "cut", "append", "zeros", "twice", "empty", "foreign", "object"])
    place = draw.randrange(max(len(content), 1))
    end = place + draw.randrange(1, 64)
    if kind == "flip" and content:
        byte = bytes([content[place] ^ (1 << draw.randrange(8))])
        return content[:place] + byte + content[place + 1 :]
    changed = {
        "cut": content[:place],
        "append": content + draw.randbytes(draw.randrange(1, 50)),
        "zeros": content[:place] + bytes(len(content[place:end])) + content[end:],
        "twice": content[:end] + content[place:],
        "foreign": draw.randbytes(len(content)),
        "object": b"{}",
    }
    return changed.get(kind, b"")


def quietly(work: Callable[[], object]) -> None:
    """Without the warnings that libraries give of odd files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work()
