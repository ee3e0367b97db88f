"""Mistakes of the user, told in one line."""

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral
from typing import Any


class UserError(Exception):
    """A mistake that the user can repair: what was wrong; what was found; what to do.

    The command line prints the message as one line and exits with code 2. Every other exception is
    a bug and keeps its traceback.

    Args:
        of_one_process: the other processes of a run do not notice, so that this one has to tell.
    """

    def __init__(self, message: str, *, of_one_process: bool = False):
        super().__init__(message)
        self.of_one_process = of_one_process


class DivergedError(UserError):
    """The loss of a run is no number any more; other runs of an experiment can go on."""


def unknown_name(kind: str, found: object, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the closest known names.

    Args:
        kind: what was looked up, e.g. "method".
        found: what the user wrote.
        known: every name that would have been right; the first 30 are listed.
    """
    names = sorted(known)
    alike = {name.lower(): name for name in reversed(names)}  # capitals are no difference
    close = [alike[c] for c in get_close_matches(str(found).lower(), alike, n=3, cutoff=0.5)]
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    listing = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    return UserError(f"unknown {kind} {found!r}{hint}; known: {listing or 'none'}")


def whole_number(name: str, found: Any, least: int | None = None) -> int:
    """`found` as Python's own integer.

    Raises:
        UserError: it is no whole number (True is none), or below `least`.
    """
    whole = isinstance(found, Integral) and not isinstance(found, bool)
    if whole and (least is None or int(found) >= least):
        return int(found)
    bound = "" if least is None else f" of at least {least}"
    raise UserError(f"{name} must be a whole number{bound}; found {found!r}")
