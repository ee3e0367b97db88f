"""The command line: vlcl run | compare | search | recipe | show | export | figures | data | import.

Exit codes: 0 done, 2 a mistake of the user (one clear line), 1 a bug (with its traceback), 130 interrupted,
141 nobody reads the output any more (`| head`; rich, which prints tables, ends with 1 then).
"""

import contextlib
import io
import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import Any

from vlcl_toolkit.errors import UserError

INTERRUPTED = 130
UNREAD = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on ``arguments`` (default: those of the process); the exit code."""
    # Nothing of the miniature needs a hub, and a machine without a network should not be asked to wait for one.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from vlcl_toolkit.cli.commands import COMMANDS
    except KeyboardInterrupt:
        print("vlcl: interrupted before it began", file=sys.stderr)
        return INTERRUPTED

    # Of torchrun's processes the first one speaks; `sharding.process_group` says the same, but imports torch.
    started_by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    first = not started_by_torchrun or os.environ["RANK"] == "0"
    return run_command(COMMANDS, arguments, first=first)


def run_command(
    commands: dict[str, Any] | Callable[..., Any],
    arguments: Sequence[str] | None = None,
    *,
    first: bool = True,
) -> int:
    """Run a command line of one or several functions; the exit code.

    Args:
        first: of several processes one speaks; whether this is the one.
    """
    for output in (sys.stdout, sys.stderr):
        if isinstance(
            output, io.TextIOWrapper
        ):  # an arrow is no reason to end, whatever the locale
            output.reconfigure(errors="backslashreplace")
    with contextlib.ExitStack() as stack:
        if not first:
            stack.enter_context(
                contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w")))
            )
        return _run(commands, arguments, first)


def _run(
    commands: dict[str, Any] | Callable[..., Any], arguments: Sequence[str] | None, first: bool
) -> int:
    import tyro  # late: what is interrupted while it starts should say so in one line

    options: dict[str, Any] = {"args": arguments, "config": (tyro.conf.OmitArgPrefixes,)}
    try:
        if isinstance(commands, dict):
            about = "Continual learning of CLIP models: run methods, compare them, look at what happened."
            tyro.extras.subcommand_cli_from_dict(
                commands, prog="vlcl", description=about, **options
            )
        else:
            tyro.cli(commands, **options)
        if sys.stdout is not None:  # closed by the shell: >&-
            sys.stdout.flush()
    except UserError as error:
        if first or error.of_one_process:
            print(f"vlcl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if first:
            print("vlcl: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        if not _unread():  # another pipe broke, say to a worker: a bug like others
            raise
        # What is still in the buffer goes nowhere; else the interpreter would complain when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    return 0


def _unread() -> bool:
    """Whether it is our output that nobody reads."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # no event but errors
    return bool(output.poll(0))
